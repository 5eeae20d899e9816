package policy

import "errors"

var errNotReady = errors.New("policy: not built yet")

// Parse reads a policy from YAML (or JSON, which is YAML). name is the file's name for messages. The error is of type Errors.
func Parse(name string, data []byte) (*Policy, error) { return nil, errNotReady }

// ParseCanonical reads the canonical form and nothing else: the bytes must be exactly what Canonical returns.
func ParseCanonical(data []byte) (*Policy, error) { return nil, errNotReady }

// Canonical returns the RFC 8785 JSON of the normalised policy.
func (p *Policy) Canonical() []byte { return nil }

// Hash is SHA-256 of Canonical.
func (p *Policy) Hash() [32]byte { return [32]byte{} }

// Expand returns a copy in which a leading ~ of each path pattern is home, an absolute path.
func (p *Policy) Expand(home string) (*Policy, error) { return nil, errNotReady }

// Narrow returns inner within outer, or an *Excess that lists each item beyond.
func Narrow(outer, inner *Policy) (*Policy, error) { return nil, errNotReady }

// Included lists what inner asks beyond outer.
func Included(inner, outer *Policy) []Beyond { return nil }

// Beyond is one item of an inner policy that the outer one does not grant.
type Beyond struct {
	Section string `json:"section"` // for example "filesystem.read"
	Item    string `json:"item"`    // as written in the inner policy
	Reason  string `json:"reason"`
}

// Excess is the error of Narrow.
type Excess struct{ Items []Beyond }

func (e *Excess) Error() string { return "beyond" }

// Problem is one mistake in a policy file. Line and Column start at 1; 0 is unknown.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

// Errors are all the mistakes of one file, in the order of the file.
type Errors []*Problem

func (e Errors) Error() string { return "invalid policy" }

// Verdict is the answer to one access.
type Verdict uint8

const (
	VerdictBlock    Verdict = iota // refused
	VerdictApproval                // a person is asked
	VerdictAllow                   // granted
)

// Decision is a verdict and the rule, as written, that led to it; empty: no list names the path.
type Decision struct {
	Verdict Verdict
	Rule    string
}

// Rules are the file rules of one permit, compiled. They are immutable and safe for concurrent use.
type Rules struct{}

// FileRules compiles the file rules. The policy must be expanded: a pattern that still starts with ~ matches nothing.
func (p *Policy) FileRules() *Rules { return &Rules{} }

// Governed is false when the policy has no filesystem section.
func (r *Rules) Governed() bool { return true }

// Decide says whether all of a is granted on path, which is absolute and clean.
func (r *Rules) Decide(path string, a Access) Decision { return Decision{} }

// Endpoints returns the parsed egress rules.
func (n *Network) Endpoints() []Endpoint { return nil }

// ListenEndpoints returns the parsed listen rules. A bare port gives one endpoint for each address family.
func (n *Network) ListenEndpoints() []Endpoint { return nil }

// MatchHost returns the first egress rule that names a host.
func (n *Network) MatchHost(name string) (Endpoint, bool) { return Endpoint{}, false }

// MatchHosts returns all egress rules that name a host: a name may be granted on several ports.
func (n *Network) MatchHosts(name string) []Endpoint { return nil }

// MatchUnix returns the rule that grants connecting to the unix socket at path.
func (n *Network) MatchUnix(path string) (rule string, ok bool) { return "", false }

// Floor is what a path-tree mechanism such as Landlock can hold of a filesystem section.
type Floor struct {
	Rules []FloorRule // whole: nothing inside is denied or asks a person
	Cut   []CutRule   // pure paths or trees with something denied or asked inside
	Globs []FloorGlob // allow patterns that are no path and no tree
}

// FloorRule grants Access to Path, and when Tree is set to everything below it.
type FloorRule struct {
	Path   string
	Tree   bool
	Access Access
	Rule   string // as written
}

// CutRule is a FloorRule with the deny and require_approval patterns that reach into it.
type CutRule struct {
	FloorRule
	Cuts []string
}

// FloorGlob is an allow pattern with wildcards; Root is the longest literal folder above everything that it matches.
type FloorGlob struct {
	Root   string
	Access Access
	Rule   string
}

// Floor splits the section for Landlock.
func (f *Filesystem) Floor() Floor { return Floor{} }

// SyscallAction is the action for a system call; SyscallAllow when the policy does not name it.
func (p *Policy) SyscallAction(name string) SyscallAction { return SyscallAllow }

// Syscalls returns the names of all known system calls of both architectures, sorted.
func Syscalls() []string { return nil }

// SyscallNumber is the number of a system call on an architecture ("amd64" or "arm64", as GOARCH names them).
func SyscallNumber(arch, name string) (number int, ok bool) { return 0, false }
