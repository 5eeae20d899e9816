// Package trace is the record of what one run did: each distinct thing once, as lines of JSON. The warden of an agent in mode
// audit keeps one (Recorder), package draft makes policies of them, and `raypher learn` keeps them as files.
//
// The format (docs/learning.md) is a header, one line for each Entry in the order in which they were seen, and an End. A trace
// without an End was cut off, one whose End counts losses has holes: neither may be taken for all that a run did.
//
// The package knows neither side and decides nothing.
package trace

import (
	"bytes"
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Version of the format.
const Version = 1

// Bounds of one trace. They keep what a hostile run can cost small: about 70 MB of memory and of disk.
const (
	MaxEntries = 1 << 16
	maxLine    = 64 << 10 // bytes
	maxBytes   = 64 << 20
)

// Header says whose trace it is.
type Header struct {
	Version int       `json:"raypher_trace"`
	Argv    []string  `json:"argv"`
	Home    string    `json:"home"` // what ~ stands for
	Started time.Time `json:"started"`
}

// End is what closes a complete trace.
type End struct {
	Entries int    `json:"entries"`
	Lost    uint64 `json:"lost"`          // what was seen and not recorded
	Why     string `json:"why,omitempty"` // of a loss, in words
}

// Access letters of an Entry, in this order.
const (
	AccessRead  = "r"
	AccessWrite = "w"
	AccessExec  = "x"
)

// Operations that an Entry is told apart by. All others on a path (open-read, create, unlink, chmod ...) differ only in their
// Access.
const (
	Rename   = "rename"
	Link     = "link"
	MapExec  = "map-exec"  // mapping for execution, as a loader does with libraries
	Unix     = "unix"      // connecting to the socket at Path
	BindUnix = "bind-unix" // making the socket at Path
	Connect  = "connect"   // to Address, also by datagrams without a connection
	Bind     = "bind"      // listening on Address
	Resolve  = "resolve"   // asking for Name, which Address is an answer to; empty: there was none
	Syscall  = "syscall"   // Target is its name
)

// Entry is one distinct thing that was done. What does not apply is empty.
type Entry struct {
	Operation string `json:"op"`
	Access    string `json:"access,omitempty"`
	Path      string `json:"path,omitempty"`    // resolved and absolute; a process's own folder in procfs is /proc/self
	To        string `json:"to,omitempty"`      // of rename and link: the new name
	Folder    bool   `json:"folder,omitempty"`  // of rename: it is a folder
	Special   bool   `json:"special,omitempty"` // a device, a pipe by name: only the kernel can open it
	AsPassed  bool   `json:"as_passed,omitempty"`
	Address   string `json:"address,omitempty"` // address:port of connect and bind, an address of resolve
	Protocol  string `json:"protocol,omitempty"`
	Name      string `json:"name,omitempty"`   // lower case, without a dot at the end
	Target    string `json:"target,omitempty"` // of what has neither path nor address
	Rule      string `json:"rule,omitempty"`   // that refuses it
	Fixed     bool   `json:"fixed,omitempty"`  // no policy can grant it
	Count     uint64 `json:"count,omitempty"`  // how often, where that was counted
}

// key is the entry without its count.
func (e Entry) key() Entry {
	e.Count = 0
	return e
}

// size is about what an entry takes.
func (e *Entry) size() int {
	return len(e.Path) + len(e.To) + len(e.Target) + len(e.Rule) + len(e.Name) + 64
}

// Trace is what Read found.
type Trace struct {
	Header
	Entries []Entry
	End     *End // nil: it was cut off
}

// Lost says whether something is missing in the trace, and what in words.
func (t *Trace) Lost() (why string, lost bool) {
	switch {
	case t.End == nil:
		return "the trace has no end: its warden did not live to write it", true
	case t.End.Lost > 0 && t.End.Why != "":
		return t.End.Why, true
	case t.End.Lost > 0:
		return "more was done than a trace holds", true
	case slices.ContainsFunc(t.Entries, leaves):
		return "a process was moved to another cgroup: what it did on the network from then on was not seen", true
	}
	return "", false
}

// leaves reports whether an entry moves processes out of the cgroup by which the network guard knows them: mode audit refuses nothing.
// Everything on files is seen all the same.
func leaves(e Entry) bool {
	name := path.Base(e.Path)
	return strings.Contains(e.Access, AccessWrite) && (name == "cgroup.procs" || name == "cgroup.threads")
}

// Merge is what all of the traces hold together. It has the header of the first, is cut off when one is, and its home is empty when
// theirs differ.
func Merge(traces ...*Trace) *Trace {
	if len(traces) == 0 {
		return &Trace{Header: Header{Version: Version}, End: &End{}}
	}
	all := &Trace{Header: traces[0].Header, End: &End{}}
	counts := map[Entry]uint64{}
	for _, t := range traces {
		if t.Home != all.Home {
			all.Home = ""
		}
		for _, e := range t.Entries {
			if _, known := counts[e.key()]; !known {
				all.Entries = append(all.Entries, e.key())
			}
			counts[e.key()] += max(e.Count, 1)
		}
		switch {
		case t.End == nil:
			all.End = nil
		case all.End != nil:
			all.End.Lost += t.End.Lost
			all.End.Why = cmp.Or(all.End.Why, t.End.Why)
		}
	}
	for i := range all.Entries {
		all.Entries[i].Count = counts[all.Entries[i]]
	}
	if all.End != nil {
		all.End.Entries = len(all.Entries)
	}
	return all
}

// Encode is the trace as it is written to files.
func (t *Trace) Encode() ([]byte, error) {
	var b bytes.Buffer
	h := t.Header
	h.Version = Version
	if err := writeLine(&b, h); err != nil {
		return nil, err
	}
	for _, e := range t.Entries {
		if err := writeLine(&b, e); err != nil {
			return nil, err
		}
	}
	if t.End != nil {
		if err := writeLine(&b, endLine{t.End}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// sorted are the entries of a map with their counts, most frequent first.
func sorted(counts map[Entry]uint64) []Entry {
	all := slices.Collect(maps.Keys(counts))
	for i := range all {
		all[i].Count = counts[all[i]]
	}
	slices.SortFunc(all, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Address, b.Address), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Access, b.Access))
	})
	return all
}
