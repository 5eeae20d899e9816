// Command guest is the first process of a virtual machine with a TPM: it exercises the signer over /dev/tpmrm0, where the kernel's
// resource manager and its driver sit in between, says how it went on the console, and switches the machine off.
// TestGuest of package tpm starts it; nobody else should.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/seal"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/tpm"
)

const (
	device  = "/dev/tpmrm0"
	state   = "/state"
	patient = time.Minute
)

func main() {
	if err := mount(); err != nil {
		fmt.Println("GUEST FAIL:", err)
	} else if err := exercise(); err != nil {
		fmt.Println("GUEST FAIL:", err)
	} else {
		fmt.Println("GUEST PASS")
	}
	unix.Sync()
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // the first process must not end
}

func mount() error {
	for _, m := range []struct{ kind, path string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", state}, {"securityfs", "/sys/kernel/security"}} {
		if err := os.MkdirAll(m.path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := unix.Mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	return nil
}

func exercise() error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	roots, err := attest.LoadRoots("/roots")
	if err != nil {
		return err
	}
	first, made, err := open(ctx)
	if err != nil || !made {
		return fmt.Errorf("first start: made %v: %w", made, err)
	}
	if err := signMany(ctx, first); err != nil {
		return err
	}
	if err := prove(ctx, first, roots); err != nil {
		return err
	}
	// The kernel gives each opener a space of its own: a second signer does not disturb the first.
	second, made, err := open(ctx)
	if err != nil || made {
		return fmt.Errorf("second start: made %v: %w", made, err)
	}
	if !first.Public().Equal(second.Public()) {
		return errors.New("another key at the second start")
	}
	for _, k := range []*tpm.Key{first, second, first} {
		if err := signMany(ctx, k); err != nil {
			return err
		}
	}
	if err := errors.Join(further(ctx, first, second), count(ctx, first, second), keepSecret(ctx, second)); err != nil {
		return err
	}
	timings, err := second.Benchmark(ctx, 20)
	for _, t := range timings {
		fmt.Printf("GUEST %s: min %s, median %s, p99 %s\n", t.Operation, t.Min, t.Median, t.P99)
	}
	return errors.Join(err, first.Close(), second.Close(), asOthers())
}

func open(ctx context.Context) (*tpm.Key, bool, error) {
	d, err := tpm.OpenDevice(device)
	if err != nil {
		return nil, false, err
	}
	return tpm.Open(ctx, tpm.Options{TPM: d, State: state})
}

func signMany(ctx context.Context, k signer.Signer) error {
	errs := make([]error, 8)
	var wait sync.WaitGroup
	for i := range errs {
		wait.Add(1)
		go func() {
			defer wait.Done()
			digest := sha256.Sum256([]byte{byte(i)})
			_, errs[i] = k.Sign(ctx, digest[:]) // verified by the signer
		}()
	}
	wait.Wait()
	return errors.Join(errs...)
}

// further uses a key of two signers in turns: contexts that the kernel saves and loads for each opener.
func further(ctx context.Context, a, b *tpm.Key) error {
	one, err := a.Key(ctx, "namespace/dev")
	if err != nil {
		return err
	}
	other, err := b.Key(ctx, "namespace/dev")
	if err != nil {
		return err
	}
	if !one.Public().Equal(other.Public()) || one.Public().Equal(a.Public()) {
		return errors.New("a further key is another at the second start, or the first key")
	}
	for _, k := range []signer.Signer{one, a, other, b, one} {
		if err := signMany(ctx, k); err != nil {
			return fmt.Errorf("further keys: %w", err)
		}
	}
	fmt.Println("GUEST further keys of two signers")
	return nil
}

// prove activates the AK and verifies evidence, with the firmware's event log where the machine has one.
func prove(ctx context.Context, k *tpm.Key, roots *attest.Roots) error {
	id, err := k.Identity(ctx)
	if err != nil {
		return err
	}
	challenge, err := attest.NewChallenge(*id, roots, time.Now())
	if err != nil {
		return err
	}
	answer, err := k.Activate(ctx, challenge.Credential, challenge.Secret)
	if err != nil {
		return err
	}
	if err := challenge.Finish(answer); err != nil {
		return err
	}
	name, err := id.AKName()
	if err != nil {
		return err
	}
	nonce := []byte("nonce of the guest")
	e, err := k.Evidence(ctx, nonce, signer.Binding{})
	if err != nil {
		return err
	}
	o := attest.Options{Roots: roots, Nonce: nonce, ActivatedAKs: [][]byte{name}}
	log, err := os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	if err == nil {
		o.EventLog = log
		fmt.Printf("GUEST event log of %d bytes\n", len(log))
	}
	r, err := attest.Verify(e.Document, o)
	if err != nil {
		return err
	}
	fmt.Printf("GUEST %d resets, PCR0 %x\n", r.ResetCount, r.PCRs[0].Value)
	return nil
}

// count takes leases with two openers at once: none is given twice, and the counter knows all.
func count(ctx context.Context, a, b *tpm.Key) error {
	first, made, err := a.Counter(ctx)
	if err != nil || !made {
		return fmt.Errorf("counter: made %v: %w", made, err)
	}
	second, made, err := b.Counter(ctx)
	if err != nil || made || first.ID() != second.ID() {
		return fmt.Errorf("counter, again: made %v: %w", made, err)
	}
	before, err := first.Read(ctx)
	if err != nil {
		return err
	}
	const each = 6
	var (
		mu   sync.Mutex
		seen = map[uint64]bool{}
		wait sync.WaitGroup
		errs [2]error
	)
	for i, c := range []*tpm.Counter{first, second} {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for range each {
				n, err := c.Take(ctx)
				if errors.Is(err, lease.ErrContended) {
					continue
				}
				mu.Lock()
				if err != nil || seen[n] {
					errs[i] = fmt.Errorf("lease %d, given before: %v: %w", n, seen[n], err)
				}
				seen[n] = true
				mu.Unlock()
			}
		}()
	}
	wait.Wait()
	after, err := second.Read(ctx)
	if err == nil && after.Counter != before.Counter+2*each {
		err = fmt.Errorf("the counter went from %d to %d in %d steps", before.Counter, after.Counter, 2*each)
	}
	fmt.Printf("GUEST %d leases of %d steps at once\n", len(seen), 2*each)
	return errors.Join(err, errs[0], errs[1])
}

// keepSecret seals a secret to the state that this machine is in, and opens it.
func keepSecret(ctx context.Context, k *tpm.Key) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	pcrs, err := k.PCRs(ctx, tpm.DefaultPCRs)
	if err != nil {
		return err
	}
	now, err := seal.Sign(&seal.Policy{Name: "guest", Version: 1, PCRs: pcrs}, key)
	if err != nil {
		return err
	}
	pcrs[0].Value[0] ^= 1
	other, err := seal.Sign(&seal.Policy{Name: "guest", Version: 1, PCRs: pcrs}, key)
	if err != nil {
		return err
	}
	sealed, err := k.Seal(ctx, []byte("secret of the guest"), public, "guest", 1)
	if err != nil {
		return err
	}
	if _, _, err := k.Unseal(ctx, sealed, [][]byte{other}); !errors.Is(err, seal.ErrPCRs) {
		return fmt.Errorf("a secret of another state: %v", err)
	}
	secret, _, err := k.Unseal(ctx, sealed, [][]byte{other, now})
	if err != nil || string(secret) != "secret of the guest" {
		return fmt.Errorf("unsealed %q: %w", secret, err)
	}
	return nil
}

// asOthers sees what a user without rights is told.
func asOthers() error {
	if err := syscall.Setresuid(-1, 1000, -1); err != nil { // the saved id leads back
		return err
	}
	_, err := tpm.OpenDevice(device)
	if err == nil || !strings.HasSuffix(err.Error(), "permission denied: run as root or join group tss") {
		return fmt.Errorf("as another user: %v", err)
	}
	return syscall.Setresuid(-1, 0, -1)
}
