package fleet

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/raypher/raypher/policy"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/release"
	"github.com/raypher/raypher/startconf"
)

// controller hands out what a test wants. What the real one does is held by test/fleet.
type controller struct {
	controllerv1.UnimplementedDistributionServer
	controllerv1.UnimplementedFleetServer
	address string
	key     startconf.KeyHash

	mu       sync.Mutex
	policies []*controllerv1.PolicyRelease
	atOnce   int // bundles in one reply
	valid    int64
	down     error
	reported *controllerv1.ReportRequest
}

func (c *controller) Policies(_ context.Context, r *controllerv1.PoliciesRequest) (*controllerv1.PoliciesReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply := &controllerv1.PoliciesReply{ValidSeconds: c.valid}
	sent := 0
	for _, p := range c.policies {
		out := &controllerv1.PolicyRelease{Name: p.Name, Version: p.Version, CanaryPercent: p.CanaryPercent}
		if !slices.ContainsFunc(r.GetHeld(), func(h *controllerv1.PolicyVersion) bool {
			return h.GetName() == p.Name && h.GetVersion() == p.Version
		}) {
			if sent++; sent <= c.atOnce {
				out.Bundle = p.Bundle
			}
		}
		reply.Policies = append(reply.Policies, out)
	}
	return reply, c.down
}

func (c *controller) Report(_ context.Context, r *controllerv1.ReportRequest) (*controllerv1.ReportReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reported = r
	return &controllerv1.ReportReply{}, nil
}

func (c *controller) set(policies ...*controllerv1.PolicyRelease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policies = policies
}

func certificate(t testing.TB) (tls.Certificate, startconf.KeyHash) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sha256.Sum256(spki(t, key))
}

func spki(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// world is a host with its controller and an operator.
type world struct {
	*controller
	t        *testing.T
	operator ed25519.PrivateKey
	options  Options
}

func newWorld(t *testing.T) *world {
	t.Helper()
	shown, hash := certificate(t)
	c := &controller{key: hash, atOnce: 1 << 20, valid: 3600}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = l.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{shown}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
	})))
	controllerv1.RegisterDistributionServer(server, c)
	controllerv1.RegisterFleetServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-served })
	_, operator, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, _ := certificate(t)
	return &world{controller: c, t: t, operator: operator, options: Options{
		Configuration: &startconf.Configuration{Controller: c.address, ControllerKeys: []startconf.KeyHash{hash}, OperatorKeys: [][]byte{spki(t, operator)}},
		Certificate:   own, State: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Report: func(context.Context) *controllerv1.ReportRequest { return &controllerv1.ReportRequest{Agents: 3} },
	}}
}

func (w *world) open() *Client {
	w.t.Helper()
	c, err := Open(w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

func (w *world) release(name string, version uint64, canary uint32) *controllerv1.PolicyRelease {
	w.t.Helper()
	return w.signed(&release.Release{Name: name, Version: version}, canary, w.operator)
}

func (w *world) signed(r *release.Release, canary uint32, key crypto.Signer) *controllerv1.PolicyRelease {
	w.t.Helper()
	p, err := policy.Parse("p", fmt.Appendf(nil, "namespace: v%d\nfilesystem: {read: [\"/usr/**\"]}\n", r.Version))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Policy = p
	file, err := release.Sign(r, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return &controllerv1.PolicyRelease{Name: r.Name, Version: r.Version, CanaryPercent: canary, Bundle: file}
}

func anySubject(*policy.Policy) string { return "spiffe://raypher.local/ns/dev/agent/a" }

func (w *world) mustRound(c *Client) {
	w.t.Helper()
	err := c.round(w.t.Context())
	c.note(err)
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestPoliciesArriveAndAreKept(t *testing.T) {
	w := newWorld(t)
	w.atOnce = 1 // replies are full with one
	w.set(w.release("a", 1, 100), w.release("b", 4, 100), w.release("c", 2, 100))
	c := w.open()
	if _, err := c.Policy("a", anySubject); !errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), "none was fetched") {
		t.Errorf("before the first exchange: %v", err)
	}
	w.mustRound(c)
	for name, version := range map[string]uint64{"a": 1, "b": 4, "c": 2} {
		if r, err := c.Policy(name, anySubject); err != nil || r.Version != version {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := c.Policy("d", anySubject); !errors.Is(err, ErrPolicy) {
		t.Errorf("one that is not released: %v", err)
	}
	if w.reported.GetAgents() != 3 {
		t.Errorf("reported %v", w.reported)
	}
	w.mustRound(c)
	if len(w.reported.GetPolicies()) != 3 {
		t.Errorf("reported %v", w.reported)
	}
	// The next raypherd begins with what is kept, without the controller, until its time is over.
	c = w.open()
	if r, err := c.Policy("b", anySubject); err != nil || r.Version != 4 {
		t.Errorf("after a restart: %+v, %v", r, err)
	}
	if s := c.Status(); len(s.Policies) != 3 || !s.Until.After(time.Now()) {
		t.Errorf("status %+v", s)
	}
	c.note(errors.New("connection refused"))
	c.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if _, err := c.Policy("b", anySubject); !errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), "served until") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("after its time: %v", err)
	}
	// One that is withdrawn is gone with the next exchange.
	c.now = time.Now
	w.set(w.release("a", 1, 100))
	w.mustRound(c)
	if _, err := c.Policy("b", anySubject); !errors.Is(err, ErrPolicy) {
		t.Errorf("withdrawn: %v", err)
	}
}

// As many releases as a host can hold arrive, whatever it held before, in as many replies as their size makes.
func TestManyReleasesInManyReplies(t *testing.T) {
	w := newWorld(t)
	w.atOnce = 7 // of the largest
	c := w.open()
	for _, version := range []uint64{1, 2} {
		var all []*controllerv1.PolicyRelease
		for i := range MaxPolicies {
			all = append(all, w.release(fmt.Sprintf("p%02d", i), version, 100))
		}
		w.set(all...)
		w.mustRound(c)
		if got := c.Status().Policies; len(got) != MaxPolicies || got[0].Version != version {
			t.Errorf("version %d: %d policies", version, len(got))
		}
	}
}

// An agent gets the canary or the version before it, by its subject under the policy itself.
func TestCanary(t *testing.T) {
	w := newWorld(t)
	w.set(w.release("a", 2, 30), w.release("a", 1, 100))
	c := w.open()
	w.mustRound(c)
	got := map[uint64]int{}
	for i := range 200 {
		subject := func(p *policy.Policy) string {
			return fmt.Sprintf("spiffe://raypher.local/ns/%s/agent/a%d", p.Namespace, i)
		}
		r, err := c.Policy("a", subject)
		if err != nil {
			t.Fatal(err)
		}
		if in := release.Covers("a", subject(&policy.Policy{Namespace: "v2"}), 30); in != (r.Version == 2) {
			t.Errorf("agent %d got version %d", i, r.Version)
		}
		got[r.Version]++
	}
	if got[1] == 0 || got[2] == 0 {
		t.Errorf("%v", got)
	}
}

// What a controller may not do; what was there before stays in force.
func TestPoliciesThatAreRefused(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, offer := range map[string]func(*world) []*controllerv1.PolicyRelease{
		"signed by a stranger": func(w *world) []*controllerv1.PolicyRelease {
			return []*controllerv1.PolicyRelease{w.signed(&release.Release{Name: "a", Version: 4}, 100, stranger)}
		},
		"changed": func(w *world) []*controllerv1.PolicyRelease {
			p := w.release("a", 4, 100)
			p.Bundle[len(p.Bundle)-1] ^= 1
			return []*controllerv1.PolicyRelease{p}
		},
		"another name than it has": func(w *world) []*controllerv1.PolicyRelease {
			p := w.release("b", 4, 100)
			p.Name = "a"
			return []*controllerv1.PolicyRelease{p}
		},
		"another version than it has": func(w *world) []*controllerv1.PolicyRelease {
			p := w.release("a", 2, 100)
			p.Version = 4
			return []*controllerv1.PolicyRelease{p}
		},
		"a lower version": func(w *world) []*controllerv1.PolicyRelease {
			return []*controllerv1.PolicyRelease{w.release("a", 2, 100)}
		},
		"a lower one beside a canary": func(w *world) []*controllerv1.PolicyRelease {
			return []*controllerv1.PolicyRelease{w.release("a", 4, 10), w.release("a", 2, 100)}
		},
		"for nobody": func(w *world) []*controllerv1.PolicyRelease {
			return []*controllerv1.PolicyRelease{w.release("a", 4, 0)}
		},
		"listed and never handed out": func(w *world) []*controllerv1.PolicyRelease {
			p := w.release("a", 4, 100)
			p.Bundle = nil
			return []*controllerv1.PolicyRelease{p}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.set(w.release("a", 3, 100))
			c := w.open()
			w.mustRound(c)
			w.set(offer(w)...)
			if err := c.round(t.Context()); err == nil {
				t.Error("taken")
			}
			if r, err := c.Policy("a", anySubject); err != nil || r.Version != 3 {
				t.Errorf("what was there before: %+v, %v", r, err)
			}
		})
	}
}

func TestPolicyThatIsOver(t *testing.T) {
	w := newWorld(t)
	w.set(w.signed(&release.Release{Name: "a", Version: 1, NotAfter: time.Now().Add(-time.Hour).Truncate(time.Second)}, 100, w.operator))
	c := w.open()
	w.mustRound(c)
	if _, err := c.Policy("a", anySubject); !errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), "was over at") {
		t.Errorf("%v", err)
	}
}

func TestWrongController(t *testing.T) {
	w := newWorld(t)
	_, other := certificate(t)
	w.options.Configuration.ControllerKeys = []startconf.KeyHash{other}
	c := w.open()
	if err := c.round(t.Context()); err == nil || !strings.Contains(err.Error(), "no controller_key") {
		t.Errorf("%v", err)
	}
}

// The file that is kept is verified when it is read.
func TestKeptFileIsChecked(t *testing.T) {
	w := newWorld(t)
	w.set(w.release("a", 1, 100))
	w.mustRound(w.open())
	path := filepath.Join(w.options.State, StateFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"cut": whole[:len(whole)-3], "empty": {}, "not one": []byte("x")} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(w.options); err == nil || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	w.options.Configuration.OperatorKeys = [][]byte{spki(t, stranger)}
	if _, err := Open(w.options); !errors.Is(err, release.ErrSignature) {
		t.Errorf("under other operator keys: %v", err)
	}
}
