package agents

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/policy"
)

// replacing is a network guard under whose hands the cgroup is removed and made anew, as by a unit that is started again.
type replacing struct {
	NetworkGuard
	t        *testing.T
	detached []uint64
}

func (r *replacing) Arm(netguard.Agent) error { return nil }

func (r *replacing) Attach(path string) error {
	// The next number is another's while this one exists.
	if err := errors.Join(os.Mkdir(path+".beside", 0o755), os.Remove(path), os.Mkdir(path, 0o755), os.Remove(path+".beside")); err != nil {
		r.t.Fatal(err)
	}
	return nil
}

func (r *replacing) Detach(id uint64) error {
	r.detached = append(r.detached, id)
	return nil
}

// TestReplacedCgroupIsLetGo: another cgroup that lies at the path by now is not left under a guard that has no rules for it.
func TestReplacedCgroupIsLetGo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	mounts, err := cgroup.FindMounts()
	if err != nil {
		t.Skip(err)
	}
	var suffix [4]byte
	rand.Read(suffix[:])
	cgroups, err := cgroup.Open("raypher-test-" + hex.EncodeToString(suffix[:]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cgroups.Close(), cgroups.Remove()); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(mounts.Unified, "test-"+hex.EncodeToString(suffix[:])+".service")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	group, err := cgroups.Attach("a", path)
	if !errors.Is(err, cgroup.ErrEmpty) {
		t.Fatal(err)
	}
	guard := &replacing{t: t}
	a := &Agent{host: &Host{options: Options{Guard: guard}}, group: group, attached: group.Below(), backend: Network, grant: grant{permit: &policy.Policy{}}}
	err = a.arm()
	if now, replaced := group.Replaced(); !replaced || !errors.Is(err, ErrAttach) || len(guard.detached) != 1 || guard.detached[0] != now {
		t.Errorf("%v, of %d detached %v, replaced: %v by %d", err, group.ID(), guard.detached, replaced, now)
	}
}
