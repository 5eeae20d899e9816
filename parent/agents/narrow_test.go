package agents

import (
	"errors"
	"testing"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/policy"
)

// written is a network guard that keeps the rules that it got last.
type written struct {
	NetworkGuard
	network *policy.Network
}

func (w *written) Renew(uint64, int64) error { return nil }

func (w *written) Replace(_ uint64, n *policy.Network) error {
	w.network = n
	return nil
}

// unwilling is a guard of files that takes no other rules, as one whose table has no room for them.
type unwilling struct{ FileGuard }

func (unwilling) Reload(uint64, *policy.Policy) error { return errors.New("no room") }
func (unwilling) Extend(uint64, int64) error          { return nil }

// TestHalfAPolicyIsTakenBack: where the guard of files does not take a policy, its network is not in force either.
func TestHalfAPolicyIsTakenBack(t *testing.T) {
	network := &written{}
	narrow, wide := &policy.Policy{Network: &policy.Network{}}, &policy.Policy{Network: &policy.Network{Egress: []string{"example.com"}}}
	o := &owner{Agent: &Agent{
		host: &Host{options: Options{Guard: network, Files: unwilling{}}}, group: &cgroup.Group{}, backend: LSM, state: Running, line: newOutbox(),
		launchPermit: wide, grant: grant{permit: narrow},
	}}
	if err := o.narrow(&narrowing{grant: grant{permit: wide}, bound: wide}); err == nil || network.network != narrow.Network || o.applied != nil {
		t.Errorf("%v, in force is %+v, applied %v", err, network.network, o.applied)
	}
}
