package link_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/lab/nsm"
	"github.com/raypher/raypher/lab/unboxed"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/startconf"
)

var measured = eif.Measurements{PCR0: eif.PCR{1}, PCR1: eif.PCR{2}, PCR2: eif.PCR{3}}

// host is the parent's side of an enclave of tier nitro.
type host struct {
	dir    string
	caller *link.Caller
	store  *audit.Store
	before *nsm.Module
}

func newHost(t *testing.T, roots ...startconf.KeyHash) *host {
	t.Helper()
	h := &host{dir: folder(t)}
	h.caller = must(link.Prepare(h.path("keys"), func(string) {}, roots...))(t)
	h.store = must(audit.Open(h.path("journal")))(t)
	t.Cleanup(func() { h.store.Close() })
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) configuration(t *testing.T) []byte {
	return must(os.ReadFile(h.path("keys/ibev.conf")))(t)
}

// run starts an enclave whose root is that of the ones before.
func (h *host) run(t *testing.T, image eif.Measurements, lie func(signer.Signer) signer.Signer) *unboxed.Enclave {
	t.Helper()
	e := must(unboxed.Start(unboxed.Options{Socket: h.path("vsock"), Image: image, Before: h.before, Signer: lie}))(t)
	t.Cleanup(func() { e.Close() })
	if h.before == nil {
		h.before = e.Module
	}
	return e
}

// dial connects with what an enclave has to show; sent is the start configuration.
func (h *host) dial(t *testing.T, v *link.Vouch, sent []byte) *link.Link {
	t.Helper()
	l := must(link.Dial(link.Options{
		Address: "vsock-uds:" + h.path("vsock") + ":5000", ConfigureAt: "vsock-uds:" + h.path("vsock") + ":5001", Configuration: sent,
		Caller: h.caller, PinFile: h.path("keys/" + link.PinFile), Vouch: v, Store: h.store, Log: quiet(),
	}))(t)
	t.Cleanup(func() { l.Close() })
	return l
}

// connect waits until the link is up, or returns why not once the first attempt has failed.
func connect(t *testing.T, l *link.Link) error {
	t.Helper()
	ctx := bounded(t)
	for {
		attempt, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err := l.Wait(attempt)
		cancel()
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "not connected yet") {
			return err
		}
	}
}

func (h *host) roots(t *testing.T) []*x509.Certificate {
	return must(nitro.ParseRoots(h.before.RootPEM()))(t)
}

func pcrs(m eif.Measurements) map[int]nitro.PCR {
	return map[int]nitro.PCR{0: m.PCR0, 1: m.PCR1, 2: m.PCR2}
}

// liar answers with evidence that bend makes.
type liar struct {
	signer.Signer
	bend func(ctx context.Context, nonce []byte, b signer.Binding) (*journal.KeyEvidence, error)
}

func (l liar) Evidence(ctx context.Context, nonce []byte, b signer.Binding) (*journal.KeyEvidence, error) {
	if nonce == nil {
		return l.Signer.Evidence(ctx, nil, b) // for the journal
	}
	return l.bend(ctx, nonce, b)
}

func bending(bend func(s signer.Signer, ctx context.Context, nonce []byte, b signer.Binding) (*journal.KeyEvidence, error)) func(signer.Signer) signer.Signer {
	return func(s signer.Signer) signer.Signer {
		return liar{s, func(ctx context.Context, nonce []byte, b signer.Binding) (*journal.KeyEvidence, error) {
			return bend(s, ctx, nonce, b)
		}}
	}
}

// Who is no enclave of the wanted image and configuration, fresh for this raypherd and holding the attested key, is not spoken to, and the
// reason names the check.
func TestVouch(t *testing.T) {
	var stale *journal.KeyEvidence
	for _, c := range []struct {
		name  string
		image eif.Measurements
		lie   func(signer.Signer) signer.Signer
		vouch func(h *host, t *testing.T) *link.Vouch
		other bool // it was started with another configuration
		want  attest.Check
	}{
		{"the wanted image", measured, nil, nil, false, ""},
		{"a golden list", measured, nil, func(h *host, t *testing.T) *link.Vouch {
			return &link.Vouch{Roots: h.roots(t), Golden: goldenList(t, measured)}
		}, false, ""},
		{"no measurements", measured, nil, func(h *host, t *testing.T) *link.Vouch { return &link.Vouch{Roots: h.roots(t)} }, false, ""},
		{"no golden set", eif.Measurements{PCR0: eif.PCR{9}}, nil, func(h *host, t *testing.T) *link.Vouch {
			return &link.Vouch{Roots: h.roots(t), Golden: goldenList(t, measured)}
		}, false, nitro.CheckGolden},
		{"the AWS root", measured, nil, func(*host, *testing.T) *link.Vouch { return &link.Vouch{PCRs: pcrs(measured)} }, false, nitro.CheckRoot},
		{"the AWS root, without measurements", measured, nil, func(*host, *testing.T) *link.Vouch { return &link.Vouch{} }, false, nitro.CheckRoot},
		{"another kernel", eif.Measurements{PCR0: eif.PCR{9}, PCR1: eif.PCR{9}, PCR2: measured.PCR2}, nil, nil, false, nitro.CheckPCR},
		{"another program", eif.Measurements{PCR0: measured.PCR0, PCR1: measured.PCR1, PCR2: eif.PCR{9}}, nil, nil, false, nitro.CheckPCR},
		{"debug mode", eif.Measurements{}, nil, nil, false, nitro.CheckDebug},
		{"another configuration", measured, nil, nil, true, nitro.CheckPCR},
		{"an old document", measured, bending(func(s signer.Signer, ctx context.Context, nonce []byte, b signer.Binding) (_ *journal.KeyEvidence, err error) {
			if stale == nil {
				stale, err = s.Evidence(ctx, []byte("the nonce of yesterday"), b)
			}
			return stale, err
		}), nil, false, nitro.CheckNonce},
		{"another epoch", measured, bending(func(s signer.Signer, ctx context.Context, nonce []byte, b signer.Binding) (*journal.KeyEvidence, error) {
			b.Epoch[0]++
			return s.Evidence(ctx, nonce, b)
		}), nil, false, nitro.CheckKey},
		{"the document of another key", measured, bending(func(s signer.Signer, ctx context.Context, nonce []byte, b signer.Binding) (*journal.KeyEvidence, error) {
			further, err := s.(signer.Keyring).Key(ctx, "another")
			if err != nil {
				return nil, err
			}
			return further.Evidence(ctx, nonce, b)
		}), nil, false, nitro.CheckKey},
		{"a key in a file", measured, bending(func(signer.Signer, context.Context, []byte, signer.Binding) (*journal.KeyEvidence, error) {
			return &journal.KeyEvidence{Tier: journal.TierSoftware, Document: []byte{1}}, nil
		}), nil, false, link.CheckTier},
		{"a key in a file, where measurements are not given and the tier is", measured, bending(func(signer.Signer, context.Context, []byte, signer.Binding) (*journal.KeyEvidence, error) {
			return &journal.KeyEvidence{Tier: journal.TierSoftware, Document: []byte{1}}, nil
		}), func(h *host, t *testing.T) *link.Vouch {
			return &link.Vouch{Roots: h.roots(t), Tier: journal.TierNitro}
		}, false, link.CheckTier},
		{"no document", measured, bending(func(signer.Signer, context.Context, []byte, signer.Binding) (*journal.KeyEvidence, error) {
			return &journal.KeyEvidence{Tier: journal.TierNitro, Document: []byte{1}}, nil
		}), nil, false, nitro.CheckEncoding},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.run(t, c.image, c.lie)
			v := &link.Vouch{Roots: h.roots(t), PCRs: pcrs(measured)}
			if c.vouch != nil {
				v = c.vouch(h, t)
			}
			sent := h.configuration(t)
			if c.other {
				first := h.dial(t, nil, bytes.Replace(sent, []byte("ttl_seconds = 300"), []byte("ttl_seconds = 60"), 1))
				if err := connect(t, first); err != nil {
					t.Fatal(err)
				}
				first.Close()
				sent = h.configuration(t)
			}
			if err := os.Remove(h.path("keys/" + link.PinFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			err := connect(t, h.dial(t, v, sent))
			_, pinErr := os.Stat(h.path("keys/" + link.PinFile))
			if c.want == "" {
				if err != nil || pinErr != nil {
					t.Errorf("%v, pin %v", err, pinErr)
				}
				return
			}
			if !errors.Is(err, link.ErrEvidence) || !strings.Contains(err.Error(), "its evidence is refused: "+string(c.want)+": ") {
				t.Errorf("%v, want check %q", err, c.want)
			}
			if pinErr == nil {
				t.Error("a refused enclave's key was pinned")
			}
		})
	}
}

// An enclave that was started anew is taken by what it is where measurements are given, and by its key alone where not; and its journal
// follows the one before.
func TestVouchForAnEnclaveStartedAnew(t *testing.T) {
	h := newHost(t)
	e := h.run(t, measured, nil)
	root := h.roots(t)[0]
	// The root is in the start configuration before the enclave gets it.
	conf := must(startconf.Read(h.path("keys")))(t)
	conf.NitroRoots = []startconf.KeyHash{sha256.Sum256(root.Raw)}
	for _, err := range []error{os.Remove(h.path("keys/ibev.conf")), startconf.Write(h.path("keys"), conf)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	v := &link.Vouch{Roots: h.roots(t), PCRs: pcrs(measured)}
	l := h.dial(t, v, h.configuration(t))
	if err := connect(t, l); err != nil {
		t.Fatal(err)
	}
	// Its documents fix what the log holds by then.
	ev := must(l.Attest(t.Context(), []byte("a fresh nonce")))(t)
	judge := &nitro.KeyVerifier{Verifier: must(nitro.NewVerifier(nitro.Config{Roots: h.roots(t)}))(t), Expected: nitro.Expected{PCRs: pcrs(measured)}}
	if a := must(judge.VerifyKey(ev.Document))(t); a.Head != sha256.Sum256(h.store.Attach().SignedHead) {
		t.Errorf("the document is about head %s", a.Head)
	}
	first := *l.EnclaveKey()
	before := must(l.Describe(t.Context()))(t)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	h.run(t, measured, nil)
	ctx := bounded(t)
	for {
		about, err := l.Describe(ctx)
		if err == nil && string(about.Epoch) != string(before.Epoch) && l.Reachable() == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("it does not come back: %v, %v", err, l.Reachable())
		}
		time.Sleep(10 * time.Millisecond)
	}
	second := *l.EnclaveKey()
	pinned := must(link.Pins(h.path("keys/" + link.PinFile)))(t)
	if first == second || len(pinned) != 2 || pinned[0] != second || pinned[1] != first {
		t.Errorf("first %x, then %x, pinned %x", first, second, pinned)
	}
	l.Close()

	// Without measurements the pin decides.
	h.run(t, measured, nil)
	err := connect(t, h.dial(t, &link.Vouch{Roots: h.roots(t)}, h.configuration(t)))
	if !errors.Is(err, link.ErrPeer) || errors.Is(err, link.ErrEvidence) || !strings.Contains(err.Error(), "remove "+h.path("keys/"+link.PinFile)) {
		t.Errorf("a third enclave, without measurements: %v", err)
	}
}

func goldenList(t *testing.T, m eif.Measurements) *golden.List {
	t.Helper()
	_, key, _ := ed25519.GenerateKey(nil) // never fails
	list := &golden.List{Version: 1, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour).Truncate(time.Second), Sets: []*golden.Set{{
		Name: "release", Version: "1", Tier: journal.TierNitro, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour).Truncate(time.Second),
		PCRs: []golden.Register{{Index: 0, Values: [][]byte{m.PCR0[:]}}, {Index: 2, Values: [][]byte{m.PCR2[:]}}},
	}}}
	file := must(golden.Sign(list, key))(t)
	return must(golden.Open(file, [][]byte{must(ceiling.PublicKey(key))(t)}))(t)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
