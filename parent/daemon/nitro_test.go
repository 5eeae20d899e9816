package daemon

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/ceiling"
	verify "github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/lab/nsm"
	"github.com/raypher/raypher/lab/unboxed"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/startconf"
)

// withoutAWS are the flags for an enclave of the laboratory at a socket, with its root and the measurements that it must have.
func (p *pair) withoutAWS(root []byte, m eif.Measurements) []string {
	p.t.Helper()
	rootFile, measurements := filepath.Join(p.dir, "test-root.pem"), filepath.Join(p.dir, "measurements.json")
	text, err := m.MarshalJSON()
	if err == nil {
		err = errors.Join(os.WriteFile(rootFile, root, 0o644), os.WriteFile(measurements, text, 0o644))
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return []string{"--enclave-vsock-uds", filepath.Join(p.dir, "vsock"), "--nitro-root", rootFile, "--enclave-measurements", measurements, "--enclave-mode", "nitro"}
}

// operated writes the start configuration, with an operator and the laboratory's root in it.
func (p *pair) operated(root []byte) ed25519.PrivateKey {
	p.t.Helper()
	_, key, _ := ed25519.GenerateKey(nil) // never fails
	der, err := ceiling.PublicKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	roots, err := nitro.ParseRoots(root)
	if err == nil {
		err = os.MkdirAll(p.paths.Keys, 0o700)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	caller, err := link.OpenCaller(p.paths.Keys)
	if err == nil {
		err = startconf.Write(p.paths.Keys, &startconf.Configuration{
			CallerKeys: []startconf.KeyHash{caller.Hash()}, OperatorKeys: [][]byte{der}, NitroRoots: hashesOf(roots),
		})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return key
}

func (p *pair) unboxed(m eif.Measurements, before *nsm.Module) *unboxed.Enclave {
	p.t.Helper()
	e, err := unboxed.Start(unboxed.Options{Socket: filepath.Join(p.dir, "vsock"), Image: m, Before: before})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { e.Close() })
	return e
}

func (p *pair) bundle(key ed25519.PrivateKey, version uint64) []byte {
	p.t.Helper()
	c, err := ceiling.Development(startconf.DefaultTrustDomain)
	if err != nil {
		p.t.Fatal(err)
	}
	c.Version = version
	bundle, err := ceiling.Sign(c, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return bundle
}

func (p *pair) status() *parentv1.StatusReply {
	p.t.Helper()
	s, err := p.operator().Status(p.t.Context(), &parentv1.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// An enclave that ends and is started anew, with another key, serves again without anybody's help: raypherd knows it by its document, its
// journal goes on, the newest ceiling is in force, and runs that began under the earlier one go on, also when raypherd is started anew after
// that. One of another image is not taken.
func TestEnclaveIsStartedAnew(t *testing.T) {
	t.Parallel()
	measured := eif.Measurements{PCR0: eif.PCR{1}, PCR1: eif.PCR{2}, PCR2: eif.PCR{3}}
	p := newPair(t)
	first := p.unboxed(measured, nil)
	p.args = append(p.args, p.withoutAWS(first.Module.RootPEM(), measured)...)
	key := p.operated(first.Module.RootPEM())
	p.start()
	if !strings.Contains(p.log.String(), "TEST ROOT") || !strings.Contains(strings.Join(p.status().Notes, "\n"), "TEST ROOT") {
		t.Errorf("neither log nor status say that the root is a test root:\n%s", p.log)
	}
	for _, version := range []uint64{3, 5} {
		if _, err := p.operator().InstallCeiling(t.Context(), &parentv1.OperatorInstallCeilingRequest{Bundle: p.bundle(key, version)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.operator().InstallCeiling(t.Context(), &parentv1.OperatorInstallCeilingRequest{Bundle: p.bundle(key, 4)}); err == nil {
		t.Error("an older ceiling was installed")
	}
	before := p.status()
	if before.Tier != journal.TierNitro || before.CeilingVersion != 5 {
		t.Fatalf("%v", before)
	}
	w := p.run(plain, "sleep 1000")
	asks := filepath.Join(p.dir, "asks")
	renewed := p.run(plain, fmt.Sprintf(`while [ ! -e %s ]; do sleep 0.1; done; "$ASK" %s narrow ''; sleep 1000`, asks, p.address()))
	for _, agent := range []*warden{w, renewed} {
		p.eventually("the agent runs", func() bool { return p.state(agent.grant().AgentID) == "running" })
	}

	first.Close()
	if err := p.reachable(); err == nil {
		t.Error("raypherd does not notice that the enclave ended")
	}
	strange := measured
	strange.PCR2 = eif.PCR{9}
	other := p.unboxed(strange, first.Module)
	p.eventually("an enclave of another image is refused, by the check's name", func() bool {
		return strings.Contains(fmt.Sprint(p.status().Notes), "its evidence is refused: pcr: PCR2")
	})
	other.Close()

	second := p.unboxed(measured, first.Module)
	p.eventually("the enclave is taken again", func() bool { return p.status().CeilingVersion == 5 })
	after := p.status()
	if string(after.EnclaveKey) == string(before.EnclaveKey) || string(after.Epoch) == string(before.Epoch) {
		t.Error("another enclave has the same key or epoch")
	}
	if _, err := p.operator().InstallCeiling(t.Context(), &parentv1.OperatorInstallCeilingRequest{Bundle: p.bundle(key, 4)}); err == nil {
		t.Error("an older ceiling was installed after the restart")
	}
	p.run(plain, "sleep 1000").grant()
	if err := os.WriteFile(asks, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	renewed.printed("permit") // under a visa that the new enclave has signed
	p.end(syscall.SIGTERM)
	p.start()
	for what, agent := range map[string]*warden{"with the visa of the ended enclave": w, "with a visa of each": renewed} {
		if state := p.state(agent.grant().AgentID); state != "waiting" && state != "running" {
			t.Errorf("an agent %s is %s after raypherd was started anew", what, state)
		}
	}
	p.end(syscall.SIGTERM)
	second.Close()
	p.verifyJournal(first.Module.RootPEM(), measured, 2)
}

// reachable asks the enclave something through raypherd.
func (p *pair) reachable() error {
	ctx, cancel := context.WithTimeout(p.t.Context(), waitTimeout)
	defer cancel()
	_, err := p.operator().Attest(ctx, &parentv1.OperatorAttestRequest{Nonce: []byte("a nonce of a test")})
	return err
}

// verifyJournal walks from epoch to epoch, as a relying party does.
func (p *pair) verifyJournal(root []byte, m eif.Measurements, epochs int) {
	p.t.Helper()
	store, err := audit.Open(p.paths.Journal)
	if err != nil {
		p.t.Fatal(err)
	}
	defer store.Close()
	roots, err := nitro.ParseRoots(root)
	if err != nil {
		p.t.Fatal(err)
	}
	v, err := nitro.NewVerifier(nitro.Config{Roots: roots})
	if err != nil {
		p.t.Fatal(err)
	}
	reports, err := store.Verify(verify.Options{Verifiers: map[string]verify.KeyVerifier{journal.TierNitro: &nitro.KeyVerifier{
		Verifier: v, OwnTime: true, Expected: nitro.Expected{PCRs: map[int]nitro.PCR{0: m.PCR0, 1: m.PCR1, 2: m.PCR2}},
	}}})
	if err != nil || len(reports) != epochs {
		p.t.Errorf("%d epochs, want %d: %v", len(reports), epochs, err)
	}
}
