package journal

// Verdict is the payload of a verdict entry: one decision of the guard about one action of one agent. Equal verdicts within
// a second are folded into one with a Count. The strings are what the guard saw, cut to the bounds in verdict validation.
// It is encoded as a CBOR map with the integer keys below (docs/protocol.md).
type Verdict struct {
	Time      int64  `cbor:"1,keyasint" json:"time"` // UnixNano of the first one
	AgentID   string `cbor:"2,keyasint" json:"agent_id"`
	Subject   string `cbor:"3,keyasint" json:"subject"` // SPIFFE ID
	PID       uint32 `cbor:"4,keyasint" json:"pid"`
	Comm      string `cbor:"5,keyasint" json:"comm"`                 // task name, informative only
	Decision  string `cbor:"6,keyasint" json:"decision"`             // block | would-block | would-ask | log | allow
	Layer     string `cbor:"7,keyasint" json:"layer"`                // what held it: seccomp, landlock, broker, cgroup/connect4, cgroup_skb/egress, dns ...
	Operation string `cbor:"8,keyasint" json:"operation"`            // open-read, unlink, exec, connect, sendto, resolve, syscall ...
	Target    string `cbor:"9,keyasint" json:"target"`               // path, address:port/protocol, name, system call
	Rule      string `cbor:"10,keyasint,omitempty" json:"rule"`      // the rule that decided; empty: nothing granted it
	Errno     int32  `cbor:"11,keyasint,omitempty" json:"errno"`     // what the program got; 0: silence
	Count     uint32 `cbor:"12,keyasint" json:"count"`               // how many equal ones this stands for, at least 1
	VisaID    []byte `cbor:"13,keyasint,omitempty" json:"visa_id"`   // cti of the visa in force
	AsPassed  bool   `cbor:"14,keyasint,omitempty" json:"as_passed"` // the target is the path as the program passed it, not a resolved object
}

// The decisions.
const (
	Block      = "block"
	WouldBlock = "would-block"
	WouldAsk   = "would-ask" // in mode audit: a person would have been asked
	Log        = "log"
	Allow      = "allow"
)

// LayerApproval is the layer of a verdict on a call that a person refused (Approval), or did not answer in time.
const LayerApproval = "approval"
