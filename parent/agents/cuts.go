package agents

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/policy"
)

// maxCuts bounds what one agent is severed from.
const maxCuts = 256

// LayerOperator is the layer of a verdict on what an operator did.
const LayerOperator = "operator"

// NetworkCut is a cut, and who made it.
type NetworkCut struct {
	netguard.Cut
	By string // user name
	At time.Time
}

// cuttingGuard is a network guard that severs and counts.
type cuttingGuard interface {
	Cut(cgroupID uint64, cuts []netguard.Cut) error
	Remember(cgroupID uint64, n *policy.Network, cuts []netguard.Cut)
	Traffic() (map[uint64]map[netguard.RuleID]netguard.Traffic, error)
}

var errNoCuts = errors.New("this network guard cannot cut")

// CutNetwork severs an agent from the network, or from a part of it, whatever it is granted; it is in force and on record when this
// returns. The same cut again changes how it looks.
func (h *Host) CutNetwork(id string, cut netguard.Cut, who journal.Person) ([]NetworkCut, error) {
	return h.changeCuts(id, func(cuts []NetworkCut) ([]NetworkCut, error) {
		cuts = slices.DeleteFunc(cuts, func(c NetworkCut) bool { return c.String() == cut.String() })
		if len(cuts) >= maxCuts {
			return nil, fmt.Errorf("%w cuts: %d for one agent: restore some, or cut everything", ErrFull, maxCuts)
		}
		return append(cuts, NetworkCut{cut, who.User, time.Now()}), nil
	}, journal.Verdict{Operation: "cut", Target: cut.String() + looks(cut)}, who)
}

// RestoreNetwork ends one cut of an agent; nil: all.
func (h *Host) RestoreNetwork(id string, cut *netguard.Cut, who journal.Person) ([]NetworkCut, error) {
	v := journal.Verdict{Operation: "restore", Target: "all cuts"}
	if cut != nil {
		v.Target = cut.String()
	}
	return h.changeCuts(id, func(cuts []NetworkCut) ([]NetworkCut, error) {
		left := slices.DeleteFunc(slices.Clone(cuts), func(c NetworkCut) bool { return cut == nil || c.String() == cut.String() })
		if len(left) == len(cuts) && cut != nil {
			return nil, fmt.Errorf("%w: agent %s is not cut off %s: `raypher net top %s` shows what is", ErrInvalid, id, cut, id)
		}
		return left, nil
	}, v, who)
}

func looks(c netguard.Cut) string {
	if c.Reject {
		return ", with an error"
	}
	return ", in silence"
}

// changeCuts puts other cuts in force and on record. A cut that cannot be recorded holds all the same, and the error says so.
func (h *Host) changeCuts(id string, change func([]NetworkCut) ([]NetworkCut, error), v journal.Verdict, who journal.Person) ([]NetworkCut, error) {
	a, err := h.Agent(id)
	if err != nil {
		return nil, err
	}
	guard, ok := h.options.Guard.(cuttingGuard)
	if !ok {
		return nil, errNoCuts
	}
	a.cutting.Lock()
	defer a.cutting.Unlock()
	cuts, err := change(a.Cuts())
	if err != nil {
		return nil, err
	}
	if err := guard.Cut(a.group.ID(), inForce(cuts)); err != nil {
		return nil, fmt.Errorf("agent %s: %w", id, err)
	}
	a.mu.Lock()
	a.cuts = cuts
	begun := a.state != Launching
	a.mu.Unlock()
	v.Time, v.Decision, v.Layer, v.Count = time.Now().UnixNano(), journal.Log, LayerOperator, 1
	v.Rule = fmt.Sprintf("by %s (uid %d, pid %d)", who.User, who.UID, who.PID)
	a.record(v, nil)
	h.options.Log.Info("an operator changed what an agent is cut off", "agent", id, "did", v.Operation, "what", v.Target, "user", who.User)
	if !begun {
		return slices.Clone(cuts), nil // its record is written when it begins
	}
	if err := a.save(); err != nil {
		return nil, fmt.Errorf("it is in force, but a restart of raypherd would not know it: %w", err)
	}
	return slices.Clone(cuts), nil
}

// Cuts are what an operator severed the agent from.
func (a *Agent) Cuts() []NetworkCut {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.cuts)
}

// rememberNetwork tells the guard what it must know of an agent that an earlier raypherd armed, before it is armed anew.
func (a *Agent) rememberNetwork() {
	if guard, ok := a.host.options.Guard.(cuttingGuard); ok {
		guard.Remember(a.group.ID(), a.grant.permit.Network, inForce(a.cuts))
	}
}

func inForce(cuts []NetworkCut) []netguard.Cut {
	all := make([]netguard.Cut, len(cuts))
	for i, c := range cuts {
		all[i] = c.Cut
	}
	return all
}

// NetworkRefusals is the kernel's count of what the network guard refused the agent, and of packets from outside that nothing had asked for.
func (a *Agent) NetworkRefusals() (refused, incoming uint64) {
	guard, ok := a.host.options.Guard.(countingGuard)
	if !ok {
		return 0, 0
	}
	c, err := guard.Counters(a.group.ID())
	if err != nil {
		return 0, 0
	}
	return c.Refused, c.Incoming
}

// NetworkTraffic is what passed by each rule of an agent, in the words of its policy, since its launch.
type NetworkTraffic struct {
	Rule string
	netguard.Traffic
}

// Traffic returns what passed by the rules of agents, by agent id.
func (h *Host) Traffic() (map[string][]NetworkTraffic, error) {
	guard, ok := h.options.Guard.(cuttingGuard)
	if !ok {
		return nil, errNoCuts
	}
	all, err := guard.Traffic()
	if err != nil {
		return nil, err
	}
	byAgent := map[string][]NetworkTraffic{}
	for cgroup, rules := range all {
		a, ok := h.ByCgroup(cgroup)
		if !ok {
			continue
		}
		names := netguard.RuleNames(a.launchPermit.Network, a.current().permit.Network)
		for id, t := range rules {
			name := names[id]
			if name == "" {
				name = "a rule that is no longer in force"
			}
			byAgent[a.id] = append(byAgent[a.id], NetworkTraffic{name, t})
		}
		slices.SortFunc(byAgent[a.id], func(x, y NetworkTraffic) int {
			return cmp.Or(cmp.Compare(y.BytesIn+y.BytesOut, x.BytesIn+x.BytesOut), cmp.Compare(x.Rule, y.Rule))
		})
	}
	return byAgent, nil
}
