package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest/result"
	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
)

// patience bounds waits; nothing is asserted about time.
const patience = 30 * time.Second

// shown is what an enclave with this key shows in TLS.
func shown(t testing.TB, s signer.Signer) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := func(n int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(n), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: n == 1, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		}
	}
	signing := signer.ForX509(t.Context(), s)
	issuer, err := x509.CreateCertificate(rand.Reader, template(1), template(1), s.Public(), signing)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template(2), template(1), key.Public(), signing)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf, issuer}, PrivateKey: key}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for: %s", patience, what)
		}
	}
}

func mustRound(t *testing.T, c *Client) {
	t.Helper()
	if _, err := c.round(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAttestedAndRenewed(t *testing.T) {
	controller := newController(t)
	controller.life = 3 * time.Second
	c := controller.client(nil)
	if _, err := c.Attested(); err == nil || !strings.Contains(err.Error(), "has not attested this enclave since it started") {
		t.Errorf("before: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	eventually(t, "a result", func() bool { _, err := c.Attested(); return err == nil })
	first := c.Status()
	if first.GetResult() == "" || first.GetController() != controller.address || first.GetError() != "" {
		t.Errorf("status %v", first)
	}
	eventually(t, "its renewal", func() bool {
		if _, err := c.Attested(); err != nil {
			t.Fatalf("a gap: %v", err)
		}
		return c.Status().GetResult() != first.GetResult()
	})
	// While the controller is away, what is in force holds until its end, and then there are words.
	controller.stop()
	if _, err := c.Attested(); err != nil {
		t.Errorf("as soon as the controller is away: %v", err)
	}
	eventually(t, "its end", func() bool { _, err := c.Attested(); return err != nil })
	if _, err := c.Attested(); !strings.Contains(err.Error(), "expired at") || !strings.Contains(err.Error(), "was not reached since") {
		t.Errorf("after: %v", err)
	}
	if s := c.Status(); s.GetResult() != "" || s.GetExchangedUnix() == 0 || s.GetError() == "" {
		t.Errorf("status %v", s)
	}
}

// inNitro is a signer that says of itself that it lies in a Nitro enclave. The controller of these tests does not look.
type inNitro struct{ signer.Signer }

func (inNitro) Tier() string { return journal.TierNitro }

func (s inNitro) Evidence(ctx context.Context, nonce []byte, b signer.Binding) (*journal.KeyEvidence, error) {
	e, err := s.Signer.Evidence(ctx, nonce, b)
	if err != nil {
		return nil, err
	}
	return &journal.KeyEvidence{Tier: journal.TierNitro, Document: e.Document}, nil
}

// An enclave of tier nitro shows the document of its instance's NitroTPM, over the controller's nonce, where its parent has one; it is attested
// without it too. Others ask nobody.
func TestInstanceDocument(t *testing.T) {
	controller := newController(t)
	var failure error
	shows := func(o *Options) {
		o.InstanceDocument = func(_ context.Context, nonce []byte) ([]byte, error) {
			return append([]byte("over "), nonce...), failure
		}
	}
	c := controller.client(func(o *Options) { o.Signer = inNitro{o.Signer}; shows(o) })
	mustRound(t, c)
	if r := controller.request; !bytes.Equal(r.GetNitroTpmDocument(), append([]byte("over "), r.GetNonce()...)) {
		t.Errorf("the document %q for the nonce %x", r.GetNitroTpmDocument(), r.GetNonce())
	}
	failure = errors.New("the parent has none")
	if err := c.attest(t.Context()); err != nil || controller.request.GetNitroTpmDocument() != nil {
		t.Errorf("without one: %v, %q", err, controller.request.GetNitroTpmDocument())
	}
	failure = nil
	mustRound(t, controller.client(shows))
	if got := controller.request.GetNitroTpmDocument(); got != nil {
		t.Errorf("an enclave of another tier shows %q", got)
	}
}

// A result counts only if the controller's key signed it, now, about this process and over its nonce.
func TestResultsThatAreRefused(t *testing.T) {
	stranger := newController(t)
	for name, spoil := range map[string]func(*controller){
		"another key":           func(c *controller) { c.lie = func(r *result.Result) { r.Key = otherKey(t) } },
		"another epoch":         func(c *controller) { c.lie = func(r *result.Result) { r.Epoch[0] ^= 1 } },
		"another configuration": func(c *controller) { c.lie = func(r *result.Result) { r.Configuration[0] ^= 1 } },
		"another tier":          func(c *controller) { c.lie = func(r *result.Result) { r.Tier = journal.TierNitro } },
		"another trust domain":  func(c *controller) { c.lie = func(r *result.Result) { r.TrustDomain = "other.example" } },
		"another nonce": func(c *controller) {
			c.lie = func(r *result.Result) { r.Nonce = bytes.Repeat([]byte{1}, 32) }
		},
		"over": func(c *controller) {
			c.lie = func(r *result.Result) { r.Issued, r.Expires = r.Issued.Add(-time.Hour), r.Issued.Add(-time.Second) }
		},
		"from the future": func(c *controller) {
			c.lie = func(r *result.Result) { r.Issued, r.Expires = r.Issued.Add(time.Hour), r.Expires.Add(time.Hour) }
		},
		"signed by another controller": func(c *controller) { c.results = stranger.results },
		"no result":                    func(c *controller) { c.token = "e30.e30.e30" },
		"one of megabytes":             func(c *controller) { c.token = strings.Repeat("x", 2<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			controller := newController(t)
			c := controller.client(nil)
			controller.mu.Lock()
			spoil(controller)
			controller.mu.Unlock()
			if _, err := c.round(t.Context()); err == nil {
				t.Error("the round went well")
			}
			if left, err := c.Attested(); err == nil {
				t.Errorf("attested for %s", left)
			}
		})
	}
}

func otherKey(t *testing.T) *journal.Key {
	t.Helper()
	key, err := journal.NewKey(journaltest.NewKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A result of before is none for a process that asks now: a parent, or a replica that was set back, cannot play it again.
func TestReplayedResult(t *testing.T) {
	controller := newController(t)
	c := controller.client(nil)
	mustRound(t, c)
	old := c.Status().GetResult()
	controller.mu.Lock()
	controller.token = old
	controller.mu.Unlock()
	if err := c.attest(t.Context()); !errors.Is(err, ErrResult) || !strings.Contains(err.Error(), "another nonce") {
		t.Errorf("%v", err)
	}
	if c.Status().GetResult() != old {
		t.Error("the result in force was lost over it")
	}
}

func TestWrongControllerKey(t *testing.T) {
	controller, other := newController(t), newController(t)
	c := controller.client(func(o *Options) { o.Configuration.ControllerKeys[0] = other.tlsKey })
	_, err := c.round(t.Context())
	if err == nil || !strings.Contains(err.Error(), "which is no controller_key") {
		t.Errorf("%v", err)
	}
	if controller.signing != nil {
		t.Error("it was asked nevertheless")
	}
}

// The life of a result is counted from before its nonce was asked for, and neither clock prolongs it.
func TestClocks(t *testing.T) {
	controller := newController(t)
	for _, c := range []struct {
		name       string
		mono, wall time.Duration // that pass after the attestation
		want       bool
	}{
		{"at once", 0, 0, true},
		{"within its life", 59 * time.Minute, 59 * time.Minute, true},
		{"over on both clocks", 61 * time.Minute, 61 * time.Minute, false},
		{"wall clock set back", 61 * time.Minute, 0, false},
		{"wall clock set back behind the result", 0, -2 * time.Minute, false},
		{"wall clock set forward", 0, 61 * time.Minute, false},
		{"the machine slept, and the monotonic clock with it", 0, 2 * time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mono, wall time.Duration
			client := controller.client(func(o *Options) {
				o.now = func() time.Time { return time.Now().Add(mono) }
				o.wall = func() time.Time { return time.Now().Add(wall) }
			})
			mustRound(t, client)
			mono, wall = c.mono, c.wall
			if left, err := client.Attested(); (err == nil) != c.want || err == nil && left > time.Hour-c.mono {
				t.Errorf("%s, %v", left, err)
			}
		})
	}
}

// A controller whose clock is behind gives results that are nearly over when they come: they are taken, and not asked for without a pause.
func TestClocksThatDiffer(t *testing.T) {
	controller := newController(t)
	controller.lie = func(r *result.Result) {
		r.Issued, r.Expires = r.Issued.Add(-50*time.Minute), r.Expires.Add(-50*time.Minute)
	}
	c := controller.client(nil)
	wait, err := c.round(t.Context())
	if left, attested := c.Attested(); err != nil || attested != nil || left > 10*time.Minute {
		t.Fatalf("%v; %s, %v", err, left, attested)
	}
	if wait < 30*time.Second {
		t.Errorf("the next attempt is in %s", wait)
	}
}

func secretOf(name string, version uint64, value string) *plain {
	return &plain{label: recipient.Label{Name: name, Version: version, Host: host}, value: []byte(value)}
}

func TestSecrets(t *testing.T) {
	controller := newController(t)
	var log bytes.Buffer
	c := controller.client(func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	holds := func(want map[string]string) {
		t.Helper()
		mustRound(t, c)
		for name, value := range want {
			got, err := c.Secret(name)
			if value == "" && !errors.Is(err, ErrNoSecret) || value != "" && (err != nil || string(got) != value) {
				t.Errorf("%s: %q, %v; want %q", name, got, err, value)
			}
			clear(got) // a copy: what is held stays
		}
	}
	set := func(gone []string, secrets ...*plain) {
		controller.mu.Lock()
		defer controller.mu.Unlock()
		controller.secrets, controller.gone = secrets, gone
	}
	holds(map[string]string{"a": ""})
	set(nil, secretOf("a", 1, "value-1"), secretOf("b", 4, "value-b"))
	holds(map[string]string{"a": "value-1", "b": "value-b"})
	holds(map[string]string{"a": "value-1", "b": "value-b"})
	if names := strings.Join(c.Status().GetSecrets(), " "); names != "a b" {
		t.Errorf("names %s", names)
	}
	if len(controller.acked) != 2 || controller.acked[1].GetVersion() != 4 {
		t.Errorf("acknowledged: %v", controller.acked)
	}
	set([]string{"b", "never held"}, secretOf("a", 2, "value-2"))
	holds(map[string]string{"a": "value-2", "b": ""})
	if len(controller.acked) != 1 {
		t.Errorf("acknowledged: %v", controller.acked)
	}
	for _, told := range []string{log.String(), c.Status().String()} {
		if strings.Contains(told, "value-") {
			t.Errorf("a value was told: %s", told)
		}
	}
}

func TestSecretExpires(t *testing.T) {
	controller := newController(t)
	c := controller.client(nil)
	short := secretOf("short", 1, "x")
	short.label.Expires = time.Now().Add(time.Minute).Unix()
	controller.secrets = []*plain{short, secretOf("long", 1, "y")}
	mustRound(t, c)
	kept := c.secrets["short"]
	if _, err := c.Secret("short"); err != nil {
		t.Fatal(err)
	}
	c.opts.wall = func() time.Time { return time.Now().Add(2 * time.Minute) }
	if _, err := c.Secret("short"); !errors.Is(err, ErrNoSecret) {
		t.Errorf("after its end: %v", err)
	}
	c.purge()
	if len(c.secrets) != 1 || !bytes.Equal(kept.value, []byte{0}) {
		t.Errorf("%d kept; the value is %q", len(c.secrets), kept.value)
	}
}

// What a controller, or somebody between, may not do to a secret; the others arrive.
func TestSecretsThatAreRefused(t *testing.T) {
	lower := secretOf("a", 1, "old")
	foreign := secretOf("c", 1, "x")
	foreign.label.Host = "web-2"
	renamed := secretOf("d", 1, "x")
	renamed.change = func(s *controllerv1.SealedSecret) { s.Name = "e" }
	prolonged := secretOf("f", 1, "x")
	prolonged.change = func(s *controllerv1.SealedSecret) { s.ExpiresUnix = 1 << 40 }
	cut := secretOf("g", 1, "x")
	cut.change = func(s *controllerv1.SealedSecret) { s.Ciphertext = s.Ciphertext[:5] }
	for name, bad := range map[string]*plain{
		"a lower version": lower, "sealed for another host": foreign, "under another name": renamed, "with another end": prolonged, "cut": cut,
	} {
		t.Run(name, func(t *testing.T) {
			controller := newController(t)
			c := controller.client(nil)
			controller.secrets = []*plain{secretOf("a", 2, "new")}
			mustRound(t, c)
			controller.mu.Lock()
			controller.secrets = []*plain{bad, secretOf("b", 1, "good")}
			controller.mu.Unlock()
			if _, err := c.round(t.Context()); err == nil {
				t.Error("no error")
			}
			if got, err := c.Secret("a"); err != nil || string(got) != "new" {
				t.Errorf("what was held: %q, %v", got, err)
			}
			if got, err := c.Secret("b"); err != nil || string(got) != "good" {
				t.Errorf("what came beside it: %q, %v", got, err)
			}
			if n := len(c.Status().GetSecrets()); n != 2 {
				t.Errorf("%d are held", n)
			}
		})
	}
}

func TestCeiling(t *testing.T) {
	controller := newController(t)
	var installed []byte
	refuse := errors.New("not signed by an operator key")
	c := controller.client(func(o *Options) {
		o.Ceiling = func() (uint64, journal.Hash) {
			if installed == nil {
				return 4, journal.Hash{4}
			}
			return 5, journal.Hash{5}
		}
		o.InstallCeiling = func(_ context.Context, bundle []byte) error {
			if string(bundle) == "bad" {
				return refuse
			}
			installed = bundle
			return nil
		}
	})
	mustRound(t, c)
	if installed != nil || controller.request.GetCeilingVersion() != 4 {
		t.Errorf("installed %q, attested version %d", installed, controller.request.GetCeilingVersion())
	}
	controller.bundle = []byte("bad")
	if _, err := c.round(t.Context()); !errors.Is(err, refuse) {
		t.Errorf("a bundle that the enclave refuses: %v", err)
	}
	controller.bundle = []byte("good")
	mustRound(t, c)
	if string(installed) != "good" {
		t.Errorf("installed %q", installed)
	}
	if v, h := controller.request.GetCeilingVersion(), controller.request.GetCeilingHash(); v != 5 || !strings.HasPrefix(h, "05") {
		t.Errorf("the result names version %d, %s", v, h)
	}
}

// enrolling is a signer that can be enrolled, as that of tier tpm.
type enrolling struct {
	signer.Signer
	secret []byte
	err    error
}

func (e *enrolling) Identity(context.Context) (*attest.Identity, error) {
	return &attest.Identity{EKCertificate: []byte{1}, AKPublic: []byte{2}}, nil
}

func (e *enrolling) Activate(_ context.Context, credential, secret []byte) ([]byte, error) {
	e.secret = append(credential, secret...)
	return e.secret, e.err
}

// Whoever is not enrolled is told so, in words; what has no TPM does not try.
func TestEnrolmentIsForTPMs(t *testing.T) {
	controller := newController(t)
	controller.refusal = status.Error(codes.PermissionDenied, "activation: the bundle has no record")
	c := controller.client(nil)
	if _, err := c.round(t.Context()); err == nil || !strings.Contains(err.Error(), "activation") || strings.Contains(err.Error(), "enrol") {
		t.Errorf("tier software: %v", err)
	}
	c = controller.client(func(o *Options) { o.Signer = &enrolling{Signer: o.Signer} })
	if _, err := c.round(t.Context()); err == nil || !strings.Contains(err.Error(), `enrol this TPM as host "web-1"`) {
		t.Errorf("a TPM, and a controller that enrols nobody: %v", err)
	}
}

// Everything may be asked at once.
func TestConcurrentUse(t *testing.T) {
	controller := newController(t)
	controller.secrets = []*plain{secretOf("a", 1, "x")}
	c := controller.client(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { c.Run(ctx) })
	for range 4 {
		all.Go(func() {
			for range 100 {
				c.Status()
				c.Attested()
				c.Secret("a")
			}
		})
	}
	eventually(t, "the secret", func() bool { _, err := c.Secret("a"); return err == nil })
	cancel()
	all.Wait()
}
