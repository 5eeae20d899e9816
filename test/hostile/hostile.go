// Package hostile is a parent that does to a running enclave whatever a parent can do: it floods, stalls, lies, reorders, sends garbage, and
// closes in the middle. It has the key that the enclave knows, as the real parent may fall into wrong hands. Between the attacks an honest
// parent must be served, and at the end the journal holds what the honest one asked for and nothing else. The test runs it over a
// unix socket, and in a virtual machine over vsock.
package hostile

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/visa"
)

// MaxResident bounds what the enclave's process may take of memory under any of the attacks, in bytes. 130 MiB were measured, and 2 GiB before
// there were bounds on callers, streams and large requests.
const MaxResident = 256 << 20

// patience bounds the wait for an enclave that is busy with an attack.
const patience = 90 * time.Second

// Target is an enclave, and the folder of the parent that it knows.
type Target struct {
	Dial      func() (net.Conn, error)
	Configure func() (net.Conn, error) // where it waits for its start configuration; nil: it has one
	Link      link.Options             // of the honest parent, but for store and log
	Caller    tls.Certificate          // of the key that the enclave knows
	Folder    string                   // for the journal
	PID       int                      // of the enclave's process
	Slow      bool                     // the machine is emulated
	Say       func(format string, args ...any)
}

// run is one run against a target.
type run struct {
	*Target
	store   *audit.Store
	honest  *link.Link
	mu      sync.Mutex
	highest int64 // resident memory, bytes
	visas   int   // that the honest parent was granted
	minted  int   // by the stalling one, whose callers were told of nothing
}

// Run does everything, and returns what the enclave did not stand.
func (t *Target) Run(ctx context.Context) (err error) {
	r := &run{Target: t}
	if t.Configure != nil {
		if err := r.configureBadly(); err != nil {
			return fmt.Errorf("start configuration: %w", err)
		}
	}
	if r.store, err = audit.Open(filepath.Join(t.Folder, "journal")); err != nil {
		return err
	}
	defer r.store.Close()
	t.Link.Store, t.Link.Log = r.store, slog.New(slog.DiscardHandler)
	if r.honest, err = link.Dial(t.Link); err != nil {
		return err
	}
	defer r.honest.Close()
	if err := r.served(ctx); err != nil {
		return fmt.Errorf("before any attack: %w", err)
	}
	before, err := r.resident()
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.watch(watching) })
	for _, attack := range attacks {
		began := time.Now()
		r.reset()
		err = errors.Join(err, r.attack(ctx, attack))
		now, _ := r.resident()
		t.Say("%s: %s; resident %d MiB, at most %d MiB", attack.name, time.Since(began).Round(time.Millisecond), now>>20, r.most()>>20)
	}
	stop()
	watch.Wait()
	after, readErr := r.resident()
	t.Say("resident before %d MiB, after %d MiB", before>>20, after>>20)
	return errors.Join(err, readErr, r.judge())
}

// attack carries one attack out and then asks for a visa.
func (r *run) attack(ctx context.Context, a attack) error {
	if err := a.do(ctx, r); err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	if err := r.served(ctx); err != nil {
		return fmt.Errorf("after %s an honest parent is not served: %w", a.name, err)
	}
	if most := r.most(); most > MaxResident {
		return fmt.Errorf("%s: the enclave took %d MiB, the bound is %d MiB", a.name, most>>20, MaxResident>>20)
	}
	return nil
}

// served asks for a visa as an honest parent does, until it gets one.
func (r *run) served(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, err := r.honest.Mint(ctx, request("honest"))
		if err == nil {
			r.visas++
			return nil
		}
		if _, statErr := os.Stat(fmt.Sprintf("/proc/%d", r.PID)); statErr != nil {
			return fmt.Errorf("the enclave ended: %w", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// judge verifies the journal, and that it holds what was asked for.
func (r *run) judge() error {
	if err := r.honest.Close(); err != nil {
		return err
	}
	reports, err := r.store.Verify(evidence.Options{AllowSoftware: true})
	if err != nil {
		return fmt.Errorf("the journal after it: %w", err)
	}
	if len(reports) != 1 {
		return fmt.Errorf("%d epochs in the journal: the enclave was started anew", len(reports))
	}
	found := map[string]int{}
	for record, err := range r.store.Entries(audit.Filter{}) {
		if err != nil {
			return err
		}
		what := record.Entry.Type.String()
		if record.Entry.Type == journal.TypeVisa {
			claims, err := visa.DecodeClaims(record.Entry.Payload)
			if err != nil {
				return err
			}
			what = "visa of " + claims.Asserted.AgentID
		}
		found[what]++
	}
	r.Say("journal: %v", found)
	// A visa whose release was never acknowledged is in the journal, and nobody has it.
	if found["visa of honest"] < r.visas || found["visa of stalled"] > r.minted {
		return fmt.Errorf("the journal holds %v, %d visas were granted and %d asked for by the stalling parent", found, r.visas, r.minted)
	}
	for what := range found {
		if what != "epoch" && what != "ceiling" && what != "cost control" && what != "visa of honest" && what != "visa of stalled" {
			return fmt.Errorf("the journal holds %q, which nobody asked for", what)
		}
	}
	return nil
}

// request is one that the enclave grants.
func request(agent string) *enclavev1.MintRequest {
	p, err := policy.Parse("p", []byte(`filesystem: {read: ["/usr/**"]}`))
	if err != nil {
		panic(err) // a constant
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // never fails
	}
	confirmation, err := visa.ConfirmationKey(&key.PublicKey)
	if err != nil {
		panic(err) // a key on the right curve
	}
	return &enclavev1.MintRequest{
		Policy: p.Canonical(), Name: "agent", ConfirmationKey: confirmation,
		Asserted: &enclavev1.Asserted{AgentId: agent, Uid: 1000, User: "u", Home: "/home/u"},
	}
}

// resident is the enclave's memory, in bytes (VmRSS of proc_pid_status(5)).
func (r *run) resident() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.PID))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", r.PID)
}

// watch looks at the memory all the time.
func (r *run) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if now, err := r.resident(); err == nil {
			r.mu.Lock()
			r.highest = max(r.highest, now)
			r.mu.Unlock()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *run) most() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.highest
}

func (r *run) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.highest = 0
}
