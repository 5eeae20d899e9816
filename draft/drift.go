package draft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// Drift is how runs and a policy differ.
type Drift struct {
	// Beyond are the narrowest rules for what runs did and the policy does not grant.
	Beyond []Rule `json:"beyond"`
	// Refused is what they tried that no policy grants.
	Refused []string `json:"refused,omitempty"`
	// Unused are rules of the policy that no run used, as section and item.
	Unused []Unused `json:"unused"`
	// Lost says why the runs may have done more than is known; empty: nothing was lost.
	Lost string `json:"lost,omitempty"`
}

// Unused is a rule that no run used.
type Unused struct {
	Section string `json:"section"`
	Item    string `json:"item"`
}

// Compare compares a policy, as it is written, with a trace. home is what ~ stands for in the policy. What a person is asked about
// counts as granted.
func Compare(p *policy.Policy, home string, t *trace.Trace) (*Drift, error) {
	expanded, err := p.Expand(home)
	if err != nil {
		return nil, err
	}
	c := &comparison{policy: expanded, rules: expanded.FileRules(), names: map[netip.Addr][]string{}}
	for _, e := range t.Entries {
		if addr, err := netip.ParseAddr(e.Address); e.Operation == trace.Resolve && err == nil {
			c.names[addr] = append(c.names[addr], e.Name)
		}
	}
	outside := *t
	outside.Entries = nil
	reached := map[netip.Addr]bool{}
	for _, e := range t.Entries {
		if e.Fixed || e.AsPassed || !c.granted(e) {
			outside.Entries = append(outside.Entries, e)
			if where, err := netip.ParseAddrPort(e.Address); err == nil && e.Operation == trace.Connect {
				reached[where.Addr()] = true
			}
		}
	}
	// The names of what was reached go along, so that it is said by name.
	for _, e := range t.Entries {
		if addr, err := netip.ParseAddr(e.Address); e.Operation == trace.Resolve && err == nil && reached[addr] {
			outside.Entries = append(outside.Entries, e)
		}
	}
	d := New(&outside, Options{Risky: Keep})
	drift := &Drift{Beyond: append([]Rule{}, d.Rules...), Refused: d.Beyond, Lost: d.Lost, Unused: []Unused{}}
	drift.Unused = append(drift.Unused, c.unusedFiles(p, home, t)...)
	drift.Unused = append(drift.Unused, c.unusedNetwork(p, home, t)...)
	return drift, nil
}

// comparison is a policy, compiled, and what names the addresses of a trace had.
type comparison struct {
	policy *policy.Policy
	rules  *policy.Rules
	names  map[netip.Addr][]string
}

// granted reports whether the policy grants what an entry did.
func (c *comparison) granted(e trace.Entry) bool {
	n := c.policy.Network
	switch e.Operation {
	case trace.Connect:
		where, err := netip.ParseAddrPort(e.Address)
		return err != nil || n != nil && (n.DefaultAction == policy.Allow || c.reaches(n, where))
	case trace.Resolve:
		return n != nil && (n.DefaultAction == policy.Allow || len(n.MatchHosts(e.Name)) > 0)
	case trace.Bind:
		where, err := netip.ParseAddrPort(e.Address)
		return err != nil || n != nil && (slices.ContainsFunc(n.ListenEndpoints(), func(l policy.Endpoint) bool { return opens(l, where) }) ||
			slices.ContainsFunc(n.IngressEndpoints(), func(l policy.Endpoint) bool { return l.Port == 0 || l.Port == where.Port() }))
	case trace.Unix:
		_, ok := n.MatchUnix(e.Path)
		return ok
	case trace.Syscall:
		return c.policy.Syscalls[e.Target] == policy.SyscallAllow || c.policy.Syscalls[e.Target] == policy.SyscallLog
	}
	a := accesses(e.Access)
	if e.Path == "" || a == 0 {
		return true
	}
	if e.To != "" && c.rules.Decide(e.To, policy.Write).Verdict == policy.VerdictBlock {
		return false
	}
	if e.Operation == trace.Link && e.To != "" {
		return true // what is linked is not changed
	}
	return c.rules.Decide(e.Path, a).Verdict != policy.VerdictBlock
}

// reaches reports whether the network section opens an address, by itself or by a name that had it.
func (c *comparison) reaches(n *policy.Network, where netip.AddrPort) bool {
	if slices.ContainsFunc(n.Endpoints(), func(e policy.Endpoint) bool { return opens(e, where) }) {
		return true
	}
	return slices.ContainsFunc(c.names[where.Addr()], func(name string) bool {
		return slices.ContainsFunc(n.NameOpens(name, where.Addr()), func(e policy.Endpoint) bool { return e.Port == 0 || e.Port == where.Port() })
	})
}

func opens(e policy.Endpoint, where netip.AddrPort) bool {
	return e.Prefix.IsValid() && e.Prefix.Contains(where.Addr().Unmap()) && (e.Port == 0 || e.Port == where.Port())
}

func accesses(letters string) policy.Access {
	var a policy.Access
	for _, l := range letters {
		switch string(l) {
		case trace.AccessRead:
			a |= policy.Read
		case trace.AccessWrite:
			a |= policy.Write
		case trace.AccessExec:
			a |= policy.Exec
		}
	}
	return a
}

// unusedFiles are the patterns that no entry needed. Each is asked by itself.
func (c *comparison) unusedFiles(p *policy.Policy, home string, t *trace.Trace) []Unused {
	if p.Filesystem == nil {
		return nil
	}
	var all []Unused
	for _, list := range []struct {
		name     string
		patterns []string
		access   policy.Access
	}{{ListRead, p.Filesystem.Read, policy.Read}, {ListWrite, p.Filesystem.Write, policy.Write}, {ListExec, p.Filesystem.Exec, policy.Read | policy.Exec}} {
		for _, pattern := range list.patterns {
			one, err := (&policy.Policy{Filesystem: &policy.Filesystem{Read: []string{pattern}}}).Expand(home)
			if err != nil {
				continue
			}
			rules := one.FileRules()
			used := slices.ContainsFunc(t.Entries, func(e trace.Entry) bool {
				a := accesses(e.Access)
				if e.To != "" && a&list.access != 0 && rules.Decide(e.To, policy.Read).Verdict == policy.VerdictAllow {
					return true
				}
				return a&list.access != 0 && e.Path != "" && rules.Decide(e.Path, policy.Read).Verdict == policy.VerdictAllow
			})
			if !used {
				all = append(all, Unused{"filesystem." + list.name, pattern})
			}
		}
	}
	return all
}

func (c *comparison) unusedNetwork(p *policy.Policy, home string, t *trace.Trace) []Unused {
	if p.Network == nil {
		return nil
	}
	var all []Unused
	for _, list := range []struct {
		name  string
		items []string
		ops   []string
	}{
		{ListEgress, p.Network.Egress, []string{trace.Connect, trace.Resolve}}, {ListListen, p.Network.Listen, []string{trace.Bind}},
		{ListUnix, p.Network.Unix, []string{trace.Unix}},
	} {
		for _, item := range list.items {
			alone := &policy.Policy{Network: &policy.Network{}}
			Rule{List: list.name, Pattern: item}.addTo(alone)
			one, err := alone.Expand(home)
			if err != nil {
				continue
			}
			single := &comparison{policy: one, names: c.names}
			if !slices.ContainsFunc(t.Entries, func(e trace.Entry) bool { return slices.Contains(list.ops, e.Operation) && single.granted(e) }) {
				all = append(all, Unused{"network." + list.name, item})
			}
		}
	}
	return all
}

// Say is the drift in words, one line each.
func (d *Drift) Say() []string {
	var lines []string
	for _, r := range d.Beyond {
		line := "beyond  " + r.List + " " + r.Pattern
		if r.Grade != GradeNone {
			line += "  (" + string(r.Grade) + ": " + r.Why + ")"
		}
		lines = append(lines, line)
	}
	for _, text := range d.Refused {
		lines = append(lines, "tried   "+text)
	}
	for _, u := range d.Unused {
		lines = append(lines, fmt.Sprintf("unused  %s %s", strings.TrimPrefix(strings.TrimPrefix(u.Section, "filesystem."), "network."), u.Item))
	}
	return lines
}
