package agents

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/approvals"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/dns/hosts"
	"github.com/raypher/raypher/parent/guard/broker"
)

// onceOpen is how long a destination is open in the network guard after an answer for one call. The warden asks about each further
// connect all the same.
const onceOpen = time.Minute

// Bounds of what is kept of one agent: addresses of names that ask, and names of one address. Beyond the second the oldest name is
// forgotten: a wildcard under which every name has the same address would otherwise fill the memory.
const (
	maxResolved = 2048
	maxNamesOf  = 32
)

// resolvedNames are the names that ask and were resolved for an agent, by address.
type resolvedNames struct {
	mu sync.Mutex
	of map[netip.Addr][]string
}

// NameAsked takes from the DNS forwarder an address of a name that require_approval names: it is not open yet.
func (h *Host) NameAsked(cgroupID uint64, name string, addr netip.Addr) {
	if a, ok := h.ByCgroup(cgroupID); ok {
		a.resolved.add(name, addr.Unmap())
	}
}

func (r *resolvedNames) add(name string, addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil || len(r.of) >= maxResolved && r.of[addr] == nil {
		r.of = map[netip.Addr][]string{}
	}
	names := r.of[addr]
	if slices.Contains(names, name) {
		return
	}
	if len(names) >= maxNamesOf {
		names = slices.Delete(names, 0, 1)
	}
	r.of[addr] = append(names, name)
}

// names are those that an address was resolved from, and those that the hosts file gives it, which programs read themselves.
func (r *resolvedNames) names(addr netip.Addr) []string {
	r.mu.Lock()
	names := slices.Clone(r.of[addr])
	r.mu.Unlock()
	if local, err := hosts.Read(hosts.Path); err == nil {
		for name, addrs := range local {
			if slices.Contains(addrs, addr) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// asksToConnect completes a question about an internet address with the rule that asks and the name behind the address. False: no
// rule asks, and the kernel decides.
func (a *Agent) asksToConnect(q *journal.Question) (bool, error) {
	to, err := destination(q.Target)
	if err != nil {
		return false, err
	}
	network := a.current().permit.Network
	if rule, ok := network.Asks(to.Addr(), to.Port()); ok {
		q.Rule = rule
		return true, nil
	}
	for _, name := range a.resolved.names(to.Addr()) {
		if rule, ok := network.Asks(to.Addr(), to.Port(), name); ok {
			q.Rule, q.Other = rule, name
			return true, nil
		}
	}
	return false, nil
}

// destination reads the target of a question: address:port/protocol.
func destination(target string) (netip.AddrPort, error) {
	text, _, _ := strings.Cut(target, "/")
	to, err := netip.ParseAddrPort(text)
	if err != nil {
		return to, fmt.Errorf("%w: the destination of a question: %w", ErrInvalid, err)
	}
	return netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), nil
}

// opened opens what was approved in the network guard, and then lets the call go on. The answer is on record.
func (a *Agent) opened(q journal.Question, number uint64, approved bool, until int64) error {
	if !approved || q.Operation != broker.OperationConnect || strings.HasPrefix(q.Target, "/") {
		return a.release(q, number, approved, until)
	}
	to, err := destination(q.Target)
	if err != nil {
		return err
	}
	period := onceOpen
	switch until {
	case 0:
	case approvals.Always:
		period = 0
	default:
		period = max(time.Duration(until-boottime()), time.Second)
	}
	guard := a.host.options.Guard
	if q.Other != "" { // the name holds for its TLS hellos too
		if period == 0 {
			period = 365 * 24 * time.Hour
		}
		err = guard.GrantName(a.group.ID(), q.Other, to.Addr(), to.Port(), period)
	} else {
		err = guard.Lend(a.group.ID(), to, period)
	}
	if err != nil {
		return fmt.Errorf("agent %s: the answer is on record, and the network guard does not open it: %w", a.id, err)
	}
	return a.release(q, number, approved, until)
}

// waits tells the warden that one of its questions waits for a person.
func (a *Agent) waits(number uint64, q journal.Question) error {
	raw, err := journal.EncodeQuestion(q)
	if err == nil {
		a.tell(&attend.ParentMessage{Waits: &attend.Waits{ID: number, Question: raw}})
	}
	return err
}
