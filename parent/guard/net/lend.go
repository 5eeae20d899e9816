package netguard

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/policy"
)

// A loan is a destination that a person opened to an agent for a time. It lies beside the rules of its permit, in the same trie.

// maxLoans bounds the destinations that one agent has on loan.
const maxLoans = 1024

var loanSays = bpf.NetguardRuleSaid{Says: bpf.NetguardRuleRULE_GRANT, Id: bpf.NetguardRuleIdRULE_LOAN}

// loans are those of one agent: when each ends. The zero time: with the agent.
type loans map[netip.AddrPort]time.Time

// Lend opens a destination, whatever the protocol, for a time; 0: as long as the agent lives. Flows that have sent eight segments by
// then go on. A raypherd that was restarted does not take back what an earlier one lent. A destination that the rules of now do not ask about
// is not lent (ErrNotGranted): they may have been narrowed while the person thought.
func (g *Guard) Lend(cgroupID uint64, to netip.AddrPort, period time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entry, err := g.entry(cgroupID)
	if err != nil {
		return err
	}
	if n, known := g.networks[cgroupID]; known {
		if _, asks := n.Asks(to.Addr(), to.Port()); !asks {
			return fmt.Errorf("network guard: %v: %w", to, ErrNotGranted)
		}
	}
	of := g.lent[cgroupID]
	if of == nil {
		of = loans{}
		g.lent[cgroupID] = of
	}
	before, known := of[to]
	if !known && len(of) >= maxLoans {
		return fmt.Errorf("network guard: %w: %d destinations are lent to one agent", ErrFull, maxLoans)
	}
	if err := g.inTrie(entry.Slot, func(trie *ebpf.Map) error { return trie.Put(loanKey(to), loanSays) }); err != nil {
		return explain("network guard: lending a destination", err)
	}
	ends := time.Time{}
	if period > 0 {
		ends = time.Now().Add(period)
	}
	if known && (before.IsZero() || !ends.IsZero() && before.After(ends)) {
		return nil
	}
	of[to] = ends
	if period > 0 {
		time.AfterFunc(period, func() { g.takeBack(cgroupID, to, ends) })
	}
	return nil
}

// takeBack ends a loan, unless it was made longer.
func (g *Guard) takeBack(cgroupID uint64, to netip.AddrPort, ends time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at, ok := g.lent[cgroupID][to]; !ok || !at.Equal(ends) {
		return
	}
	delete(g.lent[cgroupID], to)
	entry, err := g.entry(cgroupID)
	if err != nil {
		return // it is gone, and its rules with it
	}
	_ = g.inTrie(entry.Slot, func(trie *ebpf.Map) error { return trie.Delete(loanKey(to)) })
}

// lentTo are the entries of an agent's loans that its permit still asks about. g.mu is held.
func (g *Guard) lentTo(cgroupID uint64, n *policy.Network) []rule {
	var rules []rule
	for to := range g.lent[cgroupID] {
		if _, asks := n.Asks(to.Addr(), to.Port()); asks {
			rules = append(rules, rule{loanKey(to), loanSays})
		} else {
			delete(g.lent[cgroupID], to)
		}
	}
	return rules
}

func loanKey(to netip.AddrPort) bpf.NetguardRuleKey {
	addr := to.Addr().Unmap()
	return ruleKey(0, netip.PrefixFrom(addr, addr.BitLen()), to.Port())
}

// inTrie works on the rules of a slot.
func (g *Guard) inTrie(slot uint32, do func(*ebpf.Map) error) error {
	if slot == 0 {
		return errors.New("the agent has no rules")
	}
	var trie *ebpf.Map
	if err := g.maps.Slots.Lookup(slot, &trie); err != nil {
		return err
	}
	defer trie.Close()
	return do(trie)
}
