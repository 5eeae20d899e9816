package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
)

// blank is a TPM without certificates, which the simulator makes in no time.
func blank(t testing.TB) *tpmtest.TPM {
	t.Helper()
	return tpmtest.Start(t, t.TempDir())
}

// counter finds or makes the counter of a signer.
func counter(t testing.TB, k *Key) *Counter {
	t.Helper()
	c, _, err := k.Counter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// direct runs commands on the TPM past the signer, as root on the machine can.
func direct(t testing.TB, k *Key, run func(transport.TPM) error) {
	t.Helper()
	if err := k.owner.do(t.Context(), run); err != nil {
		t.Fatal(err)
	}
}

func undefine(t testing.TB, k *Key, c *Counter, kind tpm2.TPMNT) {
	t.Helper()
	direct(t, k, func(tpm transport.TPM) error {
		index := c.at.named(kind)
		_, err := execute(tpm, tpm2.NVUndefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NVIndex: index,
		})
		return err
	})
}

// shared lets several owners use one transport, command by command, as the kernel's resource manager does.
type shared struct {
	mu  *sync.Mutex
	tpm transport.TPM
}

func (s shared) Send(command []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tpm.Send(command)
}

func (s shared) Close() error { return nil }

func TestCounter(t *testing.T) {
	d, state := device(t, blank(t)), t.TempDir()
	t.Cleanup(func() { d.Close() })
	mu := new(sync.Mutex)
	leasetest.Run(t, func(t *testing.T) lease.Anchor {
		k := withoutKey(shared{mu, d}, Configuration{})
		k.state = state
		t.Cleanup(func() { k.Close() })
		return counter(t, k)
	})
}

// A counter outlives the process and the machine's power, and says so by its ID.
func TestCounterIsFoundAgain(t *testing.T) {
	machine, state := t.TempDir(), t.TempDir()
	tpm := tpmtest.Start(t, machine)
	k := open(t, device(t, tpm), state, Configuration{})
	first, made, err := k.Counter(t.Context())
	if err != nil || !made {
		t.Fatal(made, err)
	}
	n := must(first.Take(t.Context()))(t)
	tpm.Reset(t) // under the feet of the process
	if again := must(first.Take(t.Context()))(t); again != n+1 {
		t.Errorf("%d after %d", again, n)
	}
	k.Close()
	tpm.Stop()
	k = open(t, device(t, tpmtest.Start(t, machine)), state, Configuration{})
	second, made, err := k.Counter(t.Context())
	if err != nil || made || second.ID() != first.ID() {
		t.Fatalf("made %v, %v, %x and %x", made, err, first.ID(), second.ID())
	}
	if r := must(second.Read(t.Context()))(t); r.Counter != n+1 {
		t.Errorf("at %d, was at %d", r.Counter, n+1)
	}
}

// Two enclaves on one TPM count for themselves.
func TestCountersAreApart(t *testing.T) {
	k := open(t, device(t, blank(t)), t.TempDir(), Configuration{})
	a := counter(t, k)
	k.state = t.TempDir()
	b := counter(t, k)
	if a.ID() == b.ID() || a.Index() == b.Index() {
		t.Fatal("the same counter")
	}
	before := must(b.Read(t.Context()))(t)
	must(a.Take(t.Context()))(t)
	if after := must(b.Read(t.Context()))(t); after != before {
		t.Errorf("%+v, then %+v", before, after)
	}
}

// However the counter is lost, credit closes, in the process that runs and in the next, until an operator signs a new grant; and
// the counter that takes its place starts above where the old one was.
func TestLostCounterClosesCredit(t *testing.T) {
	for _, c := range []struct {
		name  string
		lose  func(*testing.T, *Key, *Counter)
		words string
	}{
		{"removed", func(t *testing.T, k *Key, c *Counter) { undefine(t, k, c, tpm2.TPMNTCounter) }, "was removed"},
		{"the version removed", func(t *testing.T, k *Key, c *Counter) { undefine(t, k, c, tpm2.TPMNTOrdinary) }, "was removed"},
		{"another index in its place", func(t *testing.T, k *Key, c *Counter) {
			undefine(t, k, c, tpm2.TPMNTCounter)
			direct(t, k, func(tpm transport.TPM) error {
				area := nvArea(c.Index(), tpm2.TPMNTOrdinary)
				area.Attributes.Written = false
				_, err := execute(tpm, tpm2.NVDefineSpace{
					AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, PublicInfo: tpm2.New2B(area),
				})
				return err
			})
		}, "took the place"},
		{"one like it in its place", func(t *testing.T, k *Key, c *Counter) {
			undefine(t, k, c, tpm2.TPMNTCounter)
			undefine(t, k, c, tpm2.TPMNTOrdinary)
			swapped := &Counter{key: withoutKey(nil, Configuration{})}
			swapped.key.state = t.TempDir()
			direct(t, k, swapped.make)
			if swapped.at.Index != c.at.Index {
				t.Fatal("made elsewhere")
			}
		}, "another password"},
		{"the TPM cleared", func(t *testing.T, k *Key, _ *Counter) {
			direct(t, k, func(tpm transport.TPM) error {
				_, err := execute(tpm, tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}})
				return err
			})
		}, "this one was cleared"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := open(t, device(t, blank(t)), t.TempDir(), Configuration{})
			operator, anchor, journal := leasetest.NewOperator(t), counter(t, k), new(leasetest.Journal)
			state, clock := t.TempDir(), new(leasetest.Clock)
			ledger := operator.Ledger(state, anchor, journal, clock.Now)
			spend := func() error { return ledger.Spend(t.Context(), "any", lease.Visas, 10) }
			if _, err := ledger.Install(t.Context(), operator.Sign(t, leasetest.Grant(t, anchor, 1, 1000, 10))); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(spend(), spend()); err != nil {
				t.Fatal(err)
			}
			before := must(anchor.Read(t.Context()))(t)
			c.lose(t, k, anchor)
			if err := spend(); !errors.Is(err, lease.ErrNoCredit) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("while running: %v, want %q", err, c.words)
			}
			again, made, err := k.Counter(t.Context())
			if err != nil || !made || again.ID() == anchor.ID() {
				t.Fatalf("made %v, %v", made, err)
			}
			ledger = operator.Ledger(state, again, journal, clock.Now)
			if err := spend(); !errors.Is(err, lease.ErrNoCredit) || !strings.Contains(err.Error(), "sign a new grant") {
				t.Errorf("after a restart: %v", err)
			}
			if r := must(again.Read(t.Context()))(t); r.Counter <= before.Counter && c.name != "the version removed" {
				t.Errorf("the new counter is at %d, the old one was at %d", r.Counter, before.Counter)
			}
			if _, err := ledger.Install(t.Context(), operator.Sign(t, leasetest.Grant(t, again, 2, 10, 10))); err != nil {
				t.Fatal(err)
			}
			if err := spend(); err != nil {
				t.Errorf("with a new grant: %v", err)
			}
			journal.Replay(t, operator)
		})
	}
}

// slow says for a while that it protects its memory, and counts how often it is asked to write.
type slow struct {
	transport.TPMCloser
	refuse, asked int
}

func (s *slow) Send(command []byte) ([]byte, error) {
	if len(command) > 10 && tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCNVIncrement {
		if s.asked++; s.asked <= s.refuse {
			return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(tpm2.TPMRCNVRate)), nil
		}
	}
	return s.TPMCloser.Send(command)
}

func TestCounterWaitsForASlowTPM(t *testing.T) {
	nvRateWait = 10 * time.Millisecond
	t.Cleanup(func() { nvRateWait = 2 * time.Second })
	s := &slow{TPMCloser: device(t, blank(t))}
	c := counter(t, open(t, s, t.TempDir(), Configuration{}))
	n := must(c.Take(t.Context()))(t)
	s.asked, s.refuse = 0, maxAttempts+2
	if again := must(c.Take(t.Context()))(t); again != n+1 || s.asked != s.refuse+1 {
		t.Errorf("from %d to %d, asked %d times", n, again, s.asked)
	}
	s.asked, s.refuse = 0, 1<<30
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := c.Take(ctx); !errors.Is(err, lease.ErrAnchor) || !strings.Contains(err.Error(), "slows down writing") {
		t.Error(err)
	}
}

func TestCounterNeedsTheOwner(t *testing.T) {
	k := open(t, device(t, blank(t)), t.TempDir(), Configuration{})
	direct(t, k, func(tpm transport.TPM) error {
		_, err := execute(tpm, tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")},
		})
		return err
	})
	if _, _, err := k.Counter(t.Context()); !errors.Is(err, lease.ErrAnchor) || !strings.Contains(err.Error(), "password that is not empty") {
		t.Error(err)
	}
}
