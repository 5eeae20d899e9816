package agents

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/guard/lsm"
	"github.com/raypher/raypher/policy"
)

// kept notes what it is told, where this kernel takes no programs of BPF LSM. What the kernel does with it is held in virtual
// machines (test/vm).
type kept struct {
	armed    map[uint64]lsm.Agent
	reloaded map[uint64]*policy.Policy
	deadline map[uint64]int64
	permits  []lsm.Grant
}

func newKept() *kept {
	return &kept{armed: map[uint64]lsm.Agent{}, reloaded: map[uint64]*policy.Policy{}, deadline: map[uint64]int64{}}
}

func (k *kept) Arm(a lsm.Agent) error                    { k.armed[a.CgroupID] = a; return nil }
func (k *kept) Reload(id uint64, p *policy.Policy) error { k.reloaded[id] = p; return nil }
func (k *kept) Extend(id uint64, deadline int64) error   { k.deadline[id] = deadline; return nil }
func (k *kept) Disarm(id uint64) error                   { delete(k.armed, id); return nil }
func (k *kept) Permit(g lsm.Grant) error                 { k.permits = append(k.permits, g); return nil }
func (k *kept) Level(string) (uint32, error)             { return 1, nil }
func (k *kept) Drain(context.Context) error              { return nil }
func (k *kept) Counters(uint64) (lsm.Counters, error)    { return lsm.Counters{}, nil }
func (k *kept) Verdict(lsm.Event) journal.Verdict        { return journal.Verdict{} }
func (k *kept) Agents() (all []uint64) {
	for id := range k.armed {
		all = append(all, id)
	}
	return all
}

// An agent is left to the broker where nothing else can hold it, and is told why.
func TestWhatHoldsAnAgentsFiles(t *testing.T) {
	var intricate []string
	for c := 'a'; c <= 'z'; c++ {
		intricate = append(intricate, fmt.Sprintf("/**/*%c*%s", c, strings.Repeat("?", 12)))
	}
	for _, test := range []struct {
		name   string
		files  FileGuard
		policy policy.Policy
		want   string
		note   string
	}{
		{"no programs of BPF LSM", nil, policy.Policy{}, Broker, ""},
		{"rules for files", newKept(), policy.Policy{Filesystem: &policy.Filesystem{Read: []string{"/usr/**"}}}, LSM, ""},
		{"no rules for files", newKept(), policy.Policy{}, LSM, ""},
		{"mode audit", newKept(), policy.Policy{Mode: policy.Audit}, Broker, ""},
		{"mode permissive", newKept(), policy.Policy{Mode: policy.Permissive}, Broker, ""},
		{"rules beyond what the kernel can hold", newKept(), policy.Policy{Filesystem: &policy.Filesystem{Deny: intricate}}, Broker, "too intricate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := &Agent{}
			(&Host{options: Options{Files: test.files}}).chooseBackend(a, &test.policy)
			if a.backend != test.want || (len(a.notes) > 0) != (test.note != "") || !strings.Contains(strings.Join(a.notes, "\n"), test.note) {
				t.Errorf("%s, %q; want %s, %q", a.backend, a.notes, test.want, test.note)
			}
			if a.host = (&Host{options: Options{Files: test.files}}); a.terms(nil).FilesHeld != (test.want == LSM) {
				t.Errorf("its terms say FilesHeld: %v", a.terms(nil).FilesHeld)
			}
		})
	}
}

// An agent whose files the kernel held goes on under a raypherd that uses the kernel's programs, and under no other.
func TestFoundAgainOnlyWhereItsFilesAreHeld(t *testing.T) {
	a := &Agent{backend: LSM, host: &Host{options: Options{}}}
	if err := a.findAgain(); err == nil || !strings.Contains(err.Error(), "--backend lsm") {
		t.Errorf("without programs of BPF LSM: %v", err)
	}
	a.backend = Broker
	if err := a.findAgain(); err != nil {
		t.Errorf("one of the broker: %v", err)
	}
}
