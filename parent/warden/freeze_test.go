package warden

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
)

// inside is a process in an agent's cgroup.
func inside(t *testing.T) *cgroup.Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	suffix := make([]byte, 4)
	rand.Read(suffix)
	p, err := cgroup.Open("raypher-test-" + hex.EncodeToString(suffix))
	if errors.Is(err, cgroup.ErrNoCgroup2) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	g, err := p.Create("agent", os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := g.Kill()
		cmd.Wait()
		if err := errors.Join(err, g.Remove(), p.Close(), p.Remove()); err != nil {
			t.Error(err)
		}
	})
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestTheVisaEndsWithoutRaypherd: the warden alone freezes its agent at the end of each visa, also after somebody thawed it, and lets
// it go on with the next.
func TestTheVisaEndsWithoutRaypherd(t *testing.T) {
	g := inside(t)
	f, err := newFreezer(g.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	w := &warden{lines: NewLines(io.Discard, false, false), freezer: f}
	defer w.lines.Close()
	go f.watch(w.expired)
	renew := func(lasts time.Duration) {
		t.Helper()
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			t.Fatal(err)
		}
		if err := w.renew(nil, now.Nano()+int64(lasts)); err != nil {
			t.Fatal(err)
		}
	}
	becomes := func(frozen bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); g.Frozen() != frozen; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it never became frozen: %v", frozen)
			}
		}
	}
	renew(time.Millisecond)
	becomes(true)
	renew(time.Hour)
	becomes(false)
	renew(time.Millisecond)
	becomes(true)
	if err := g.Freeze(false); err != nil {
		t.Fatal(err)
	}
	renew(time.Millisecond)
	becomes(true)
}

// TestARenewalIsNotOvertaken: a timer that rang before a renewal, and is read after it, freezes nothing.
func TestARenewalIsNotOvertaken(t *testing.T) {
	g := inside(t)
	f, err := newFreezer(g.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	w := &warden{lines: NewLines(io.Discard, false, false), freezer: f}
	defer w.lines.Close()
	if err := w.renew(nil, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	w.expired()
	if g.Frozen() || w.frozen {
		t.Error("the agent is frozen under a visa that lasts")
	}
}
