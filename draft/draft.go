// Package draft makes the narrowest policy that grants what runs did (package trace), says what in it is risky, and says what runs
// and policies differ in. It decides nothing and imports neither side: what it makes is a proposal that a person reads.
//
// The rules by which paths become patterns stand in docs/learning.md, and in fold.go and names.go one by one. Two of them are
// promises: no draft grants /** or ~/**, and what is risky is granted only on demand.
package draft

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// Risky says what becomes of rules that reach keys, credentials and other powers.
type Risky string

// What may be done with risky rules.
const (
	Comment Risky = "comment" // left out, and shown as comments
	Ask     Risky = "ask"     // a person is asked each time, for files; the others as Comment
	Keep    Risky = "keep"    // granted
)

// Options of a draft.
type Options struct {
	Risky Risky // empty: Comment
	// Many is how many entries of a folder become a pattern for all of them; 0: 8.
	Many int
}

// standardMany is so small that a loop over files shows, and so large that a few files of a folder stay those files.
const standardMany = 8

// maxRules is how many items a list may have: as many as a manifest's (package manifest).
const maxRules = 500

// The lists of a draft, as a policy calls them.
const (
	ListRead     = "read"
	ListWrite    = "write"
	ListExec     = "exec"
	ListEgress   = "egress"
	ListListen   = "listen"
	ListUnix     = "unix"
	ListSyscalls = "syscalls"
)

// Rule is one item of a list.
type Rule struct {
	List    string `json:"list"`
	Pattern string `json:"pattern"`
	Grade   Grade  `json:"grade,omitempty"`
	Why     string `json:"why,omitempty"`     // of the grade, or what else there is to say
	Stands  int    `json:"stands,omitempty"`  // for so many paths, when more than one
	Example string `json:"example,omitempty"` // one of them
}

// Draft is a proposal.
type Draft struct {
	Rules []Rule `json:"rules"` // by list, in the order of patterns
	// Denied are withheld paths that one of the patterns would grant.
	Denied []string `json:"denied,omitempty"`
	// Beyond says what no policy grants, or what the draft could not hold.
	Beyond []string `json:"beyond,omitempty"`
	// Lost says why the draft may be too narrow; empty: nothing was lost.
	Lost  string `json:"lost,omitempty"`
	Risky Risky  `json:"risky"`
}

// New drafts what grants everything in a trace.
func New(t *trace.Trace, o Options) *Draft {
	o.Risky = cmp.Or(o.Risky, Comment)
	o.Many = cmp.Or(o.Many, standardMany)
	d := &Draft{Risky: o.Risky}
	d.Lost, _ = t.Lost()
	f := newFiles(t.Home, o.Many)
	n := newNetwork()
	beyond := map[string]int{}
	for _, e := range t.Entries {
		switch {
		case e.Fixed:
			beyond[fmt.Sprintf("%s %s: %s", e.Operation, cmp.Or(e.Path, e.Target, e.Address, e.Name), cmp.Or(e.Rule, "no policy grants it"))]++
		case e.Operation == trace.Resolve && !isHost(e.Name):
			beyond[fmt.Sprintf("resolve %s: it is not the name of one host", e.Name)]++
		case e.Operation == trace.Connect || e.Operation == trace.Bind || e.Operation == trace.Resolve:
			n.add(e)
		case e.AsPassed:
			beyond[fmt.Sprintf("%s %s: the guard does not follow this path", e.Operation, e.Path)]++
		case e.Operation == trace.Unix:
			d.Rules = append(d.Rules, unixRule(f.written(e.Path), e.Path))
		case e.Operation == trace.Syscall:
			if !policy.RefusedUnlessAllowed(e.Target) {
				beyond["system call "+e.Target+": the base filter refuses it, and no policy lifts that"]++
				continue
			}
			d.Rules = append(d.Rules, Rule{List: ListSyscalls, Pattern: e.Target, Grade: GradeRisky, Why: "reaches other programs past every rule on files"})
		case e.Path != "":
			f.add(e)
		default:
			beyond[fmt.Sprintf("%s %s: no policy grants it", e.Operation, e.Target)]++
		}
	}
	d.Rules = append(d.Rules, n.rules()...)
	d.Rules = append(d.Rules, f.rules()...)
	d.finish(f)
	d.Beyond = append(d.Beyond, sortedKeys(beyond)...)
	return d
}

// finish sorts, takes out what is said twice, and denies what is withheld and would be granted by a pattern.
func (d *Draft) finish(f *files) {
	d.Beyond = append(d.Beyond, f.beyond...)
	order := []string{ListRead, ListWrite, ListExec, ListEgress, ListListen, ListUnix, ListSyscalls}
	slices.SortStableFunc(d.Rules, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.List), slices.Index(order, b.List)), cmp.Compare(a.Pattern, b.Pattern))
	})
	d.Rules = slices.DeleteFunc(d.Rules, func(r Rule) bool {
		if r.valid() {
			return false
		}
		d.Beyond = append(d.Beyond, fmt.Sprintf("%s %q: the policy language cannot say it", r.List, r.Pattern))
		return true
	})
	d.Rules = slices.CompactFunc(d.Rules, func(a, b Rule) bool { return a.List == b.List && a.Pattern == b.Pattern })
	if d.Risky == Keep {
		return
	}
	granted := &policy.Policy{Filesystem: &policy.Filesystem{}}
	for _, r := range d.Rules {
		if r.Grade != GradeRisky {
			r.addTo(granted)
		}
	}
	home := f.home
	if home == "" {
		home = "/"
	}
	expanded, err := granted.Expand(home)
	if err != nil {
		return // a mistake of this package, which the parser of the draft reports
	}
	rules := expanded.FileRules()
	for _, r := range d.Rules {
		if access := accessOf(r.List); d.withheld(r) && access != 0 && rules.Decide(r.Example, access).Verdict == policy.VerdictAllow {
			d.Denied = append(d.Denied, r.Pattern)
		}
	}
	slices.Sort(d.Denied)
	d.Denied = slices.Compact(d.Denied)
}

// valid asks the parser of the policy language: names come from the agent, and not every name of the DNS is one of a host.
func (r Rule) valid() bool {
	p := &policy.Policy{Filesystem: &policy.Filesystem{}}
	r.addTo(p)
	text, err := json.Marshal(p)
	if err == nil {
		_, err = policy.Parse("draft", text)
	}
	return err == nil
}

// accessOf is what a list grants; 0: no list of files.
func accessOf(list string) policy.Access {
	return map[string]policy.Access{ListRead: policy.Read, ListWrite: policy.Write, ListExec: policy.Exec}[list]
}

// addTo adds the rule to a policy.
func (r Rule) addTo(p *policy.Policy) {
	switch r.List {
	case ListRead:
		p.Filesystem.Read = append(p.Filesystem.Read, r.Pattern)
	case ListWrite:
		p.Filesystem.Write = append(p.Filesystem.Write, r.Pattern)
	case ListExec:
		p.Filesystem.Exec = append(p.Filesystem.Exec, r.Pattern)
	case ListSyscalls:
		if p.Syscalls == nil {
			p.Syscalls = map[string]policy.SyscallAction{}
		}
		p.Syscalls[r.Pattern] = policy.SyscallAllow
	default:
		if p.Network == nil {
			p.Network = &policy.Network{}
		}
		switch r.List {
		case ListEgress:
			p.Network.Egress = append(p.Network.Egress, r.Pattern)
		case ListListen:
			p.Network.Listen = append(p.Network.Listen, r.Pattern)
		case ListUnix:
			p.Network.Unix = append(p.Network.Unix, r.Pattern)
		}
	}
}

// withheld reports whether the draft does not grant the rule.
func (d *Draft) withheld(r Rule) bool {
	return r.Grade == GradeRisky && d.Risky != Keep && !(d.Risky == Ask && accessOf(r.List) != 0)
}

// Granted are the rules that the draft grants, also those that ask a person first.
func (d *Draft) Granted() []Rule {
	return slices.DeleteFunc(slices.Clone(d.Rules), d.withheld)
}

// Withheld are the rules that it does not.
func (d *Draft) Withheld() []Rule {
	return slices.DeleteFunc(slices.Clone(d.Rules), func(r Rule) bool { return !d.withheld(r) })
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// escape is a name as a pattern that matches it alone. Control characters cannot stand in a pattern and are matched by ?.
func escape(name string) string {
	if name == "~" {
		return `\~` // a file of that name
	}
	if !strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || strings.ContainsRune(`*?{},[]\`, r) }) {
		return name
	}
	var b strings.Builder
	for _, r := range name {
		switch {
		case r < 0x20 || r == 0x7f:
			b.WriteByte('?')
			continue
		case strings.ContainsRune(`*?{},[]\`, r):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
