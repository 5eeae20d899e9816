package agents

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/policy"
)

// maxSkew is how far the time of a warden's verdict may lie from now; beyond it the verdict gets the time of its arrival.
const maxSkew = time.Minute

// Report takes a verdict that the warden came to. Which agent it belongs to is not the warden's to say.
func (a *Agent) Report(encoded []byte) error {
	v, err := journal.DecodeVerdict(encoded)
	if err != nil {
		a.host.options.Events.Lost(a.id, 1)
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	now := time.Now()
	if skew := now.Sub(time.Unix(0, v.Time)); skew > maxSkew || skew < -maxSkew {
		v.Time = now.UnixNano()
	}
	if v.Decision == journal.Block {
		a.tally.warden.Add(uint64(max(v.Count, 1)))
	}
	a.record(v, nil)
	return nil
}

// Count adds what an agent in mode permissive did: calls by operation.
func (a *Agent) Count(byOperation map[string]uint64) {
	const maxOperations = 64
	if len(byOperation) > maxOperations {
		return
	}
	for operation, n := range byOperation {
		if len(operation) <= maxName {
			a.host.options.Events.Count("permissive_"+operation, n)
		}
	}
}

// record stamps a verdict with its agent, passes it on, and ends the agent where its policy says so.
func (a *Agent) record(v journal.Verdict, notify func(journal.Verdict)) {
	g := a.current()
	v.AgentID, v.Subject, v.VisaID = a.id, a.subject, g.visaID
	a.host.options.Events.Report(v, notify)
	if v.Decision != journal.Block {
		return
	}
	a.blocked.Add(uint64(max(v.Count, 1)))
	a.tally.hear(v)
	if v.Layer != journal.LayerApproval && g.permit.OnViolation == policy.Kill && mode(g.permit) == policy.Enforce {
		a.stop("on_violation: kill: it tried " + v.Operation + " " + v.Target)
	}
}

// show sends a verdict of another layer to the warden, for the operator's terminal.
func (a *Agent) show(v journal.Verdict) {
	encoded, err := journal.EncodeVerdict(v)
	if err != nil {
		return // the hub counts and logs it
	}
	if a.attached != "" {
		return // it has no terminal
	}
	a.mu.Lock()
	line := a.line
	a.mu.Unlock()
	message := &attend.ParentMessage{Seen: &attend.Seen{Verdict: encoded}}
	if line == nil || !line.show(message) {
		a.host.options.Events.Count("verdicts_not_shown", 1)
	}
}

// decide says what a refusal in a mode is called in the journal; false: it is only counted.
func decide(m policy.Mode) (decision string, record bool) {
	switch m {
	case policy.Audit:
		return journal.WouldBlock, true
	case policy.Permissive:
		return journal.Allow, false
	}
	return journal.Block, true
}

// NetworkEvent takes what the network guard refused.
func (h *Host) NetworkEvent(e netguard.Event) {
	h.observeEvent(e)
	if e.Mode == policy.Audit && reportedByWarden(e) {
		return
	}
	v := journal.Verdict{
		Time: e.Time.UnixNano(), PID: e.PID, Comm: e.Comm, Layer: e.Layer, Operation: e.Operation,
		Target: networkTarget(e), Rule: networkRule(e), Errno: e.Errno, Count: max(e.Count, 1),
	}
	if a, ok := h.ByCgroup(e.CgroupID); ok && v.Rule == "" && strings.HasPrefix(e.Operation, "send") {
		if rule, asks := a.current().permit.Network.Asks(e.Destination.Addr(), e.Destination.Port()); asks {
			v.Rule = "require_approval " + rule + ": only connect can wait for a person: connect the socket first"
		}
	}
	h.outside(v, e.CgroupID, e.Mode)
}

// NameRefused takes what the DNS forwarder refused.
func (h *Host) NameRefused(q dns.Query) {
	v := journal.Verdict{
		Time: q.Time.UnixNano(), Layer: "dns", Operation: "resolve",
		Target: q.Name + " " + q.Type + "/" + q.Protocol, Rule: nameRule(q.Reason), Count: max(q.Count, 1),
	}
	h.outside(v, q.CgroupID, q.Mode)
}

// outside takes a verdict that no warden came to. One on a cgroup that is no agent's any more is kept under the cgroup's number.
func (h *Host) outside(v journal.Verdict, cgroupID uint64, m policy.Mode) {
	decision, record := decide(m)
	v.Decision = decision
	if !record {
		h.options.Events.Count("permissive_"+v.Operation, uint64(v.Count))
		return
	}
	a, ok := h.ByCgroup(cgroupID)
	if !ok {
		v.AgentID = "cgroup-" + strconv.FormatUint(cgroupID, 10)
		h.options.Events.Report(v, nil)
		return
	}
	a.record(v, a.show)
}

// reportedByWarden says whether the agent's warden saw the same call before the network guard did, and let it pass with a verdict
// of its own: it is notified of every connect to a unix socket with a path, but for addresses as long as an internet address.
func reportedByWarden(e netguard.Event) bool {
	if e.Operation != "connect-unix" || e.Path == "" || e.Path[0] == '@' {
		return false
	}
	for _, length := range []int{len(e.Path) + 2, len(e.Path) + 3} { // struct sockaddr_un without and with the final zero
		if length == floor.SizeInet4 || length == floor.SizeInet6 {
			return false
		}
	}
	return true
}

func networkTarget(e netguard.Event) string {
	switch {
	case e.Reason == netguard.ServerName && e.Path != "":
		return e.Destination.String() + "/" + e.Protocol + " " + strconv.Quote(e.Path)
	case e.Path != "":
		return e.Path
	case e.Reason == netguard.Flood:
		return "(several destinations)"
	case !e.Destination.IsValid():
		return e.Protocol
	case e.Destination.Port() == 0:
		return e.Destination.Addr().String() + "/" + e.Protocol
	}
	if e.Name != "" {
		return e.Destination.String() + "/" + e.Protocol + " " + strconv.Quote(e.Name)
	}
	return e.Destination.String() + "/" + e.Protocol
}

// networkRule says in the verdict's Rule what refused it; empty: that nothing grants it.
func networkRule(e netguard.Event) string {
	if e.Reason == netguard.NotGranted && e.Reserved {
		return "a reserved address, which wide rules leave out"
	}
	return reasonRule(e.Reason)
}

// nameRule is reasonRule for names.
func nameRule(reason string) string {
	if reason == dns.NotGranted {
		return ""
	}
	return reason
}

// reasonRule says in the verdict's Rule why it was refused, where it is not that nothing grants it.
func reasonRule(r netguard.Reason) string {
	switch r {
	case netguard.Expired:
		return "the visa has ended"
	case netguard.UnknownAgent:
		return "the cgroup is not armed"
	case netguard.Unreadable:
		return "a packet that cannot be read"
	case netguard.ForeignSource:
		return "a frame in the name of another sender than the agent"
	case netguard.NoHello:
		return "a stream to a name's address on a port of TLS that does not begin with a TLS hello"
	case netguard.SplitHello:
		return "a TLS hello in several pieces: its server name cannot be read"
	case netguard.NoServerName:
		return "a TLS hello without a server name, to an address that a name opened"
	case netguard.ServerName:
		return "the TLS server name is not granted"
	case netguard.Severed:
		return "an operator has cut it"
	}
	return ""
}
