package mint

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/enclave/ceiling"
	sequencer "github.com/raypher/raypher/enclave/journal"
	"github.com/raypher/raypher/enclave/keys"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/visa"
)

const testCeiling = `
version: 7
trust_domain: raypher.local
grants:
  - namespace: dev
    agents: ["build-*"]
    uids: [1000]
    max_ttl_seconds: 120
    permit:
      mode: audit
      filesystem:
        read: ["/usr/**", "~/**"]
        write: ["~/work/**"]
        deny: ["~/.ssh/**"]
      network:
        egress: ["example.com:443", "10.0.0.0/8"]
  - namespace: signed
    agents: ["*"]
    binaries: ["sha256:0101010101010101010101010101010101010101010101010101010101010101"]
    permit:
      mode: enforce
      filesystem: {read: ["/**"]}
`

// store acknowledges what it is sent, as an honest parent does.
type store struct {
	ctx   context.Context
	up    chan *enclavev1.PersistRequest
	ready chan struct{}
}

func (s *store) Context() context.Context { return s.ctx }

func (s *store) SendHeader(metadata.MD) error {
	close(s.ready)
	return nil
}

func (s *store) Send(b *enclavev1.Batch) error {
	ack := &enclavev1.PersistAck{Epoch: b.GetEpoch(), Size: b.GetFirstIndex() + uint64(len(b.GetEntries()))}
	s.up <- &enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: ack}}
	return nil
}

func (s *store) Recv() (*enclavev1.PersistRequest, error) {
	select {
	case m := <-s.up:
		return m, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

type clock struct {
	now      time.Time
	attested Attested // nil: no controller
}

func newMint(t testing.TB, configuration *startconf.Configuration, at *clock) (*Mint, *journal.Key) {
	t.Helper()
	return newMintUnder(t, testCeiling, configuration, at)
}

func newMintUnder(t testing.TB, text string, configuration *startconf.Configuration, at *clock) (*Mint, *journal.Key) {
	t.Helper()
	dir := t.TempDir()
	key, _, err := software.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	pub, operator, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_ = pub
	der, err := ceiling.PublicKey(operator)
	if err != nil {
		t.Fatal(err)
	}
	ceilings, err := ceiling.OpenStore(dir, "raypher.local", [][]byte{der})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ceiling.ParseSource("c", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := ceiling.Sign(c, operator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ceilings.Install(bundle, nil); err != nil {
		t.Fatal(err)
	}
	configuration.Defaults()
	var epoch journal.EpochID
	rand.Read(epoch[:])
	s, err := sequencer.New(sequencer.Options{Signer: key, Epoch: epoch, Configuration: configuration.Hash(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	st := &store{ctx: ctx, up: make(chan *enclavev1.PersistRequest, 16), ready: make(chan struct{})}
	st.up <- &enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: &enclavev1.Attach{}}}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(st)
	}()
	t.Cleanup(func() { cancel(); <-served; s.Close() })
	<-st.ready
	signing, err := journal.NewKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	further := keys.New(keys.Options{Signer: key, Journal: s, Epoch: epoch, Configuration: configuration.Hash()})
	opts := Options{Configuration: configuration, Ceiling: ceilings, Journal: s, Keys: further, Epoch: epoch, Tier: key.Tier()}
	if at != nil {
		opts.Now = func() time.Time { return at.now }
		opts.Attested = at.attested
	}
	return New(opts), signing
}

// canonical is the form of a policy for namespace dev; narrower that of a manifest's permissions or an intent.
func canonical(t testing.TB, text string) []byte {
	return form(t, policy.Parse, "namespace: dev\n"+text)
}

func narrower(t testing.TB, text string) []byte { return form(t, policy.ParseIntent, text) }

func form(t testing.TB, parse func(string, []byte) (*policy.Policy, error), text string) []byte {
	t.Helper()
	p, err := parse("p", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if p, err = p.Expand("/home/a"); err != nil {
		t.Fatal(err)
	}
	return p.Canonical()
}

func confirmationKey(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cnf, err := visa.ConfirmationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return cnf
}

const goodPolicy = `
filesystem: {read: ["/usr/lib/**", "~/work/**"], write: ["~/work/out/**"]}
network: {egress: ["example.com:443"]}
`

func goodRequest(t testing.TB) *enclavev1.MintRequest {
	t.Helper()
	return &enclavev1.MintRequest{
		Policy: canonical(t, goodPolicy), Namespace: "dev", Name: "build-1", ConfirmationKey: confirmationKey(t),
		Asserted: &enclavev1.Asserted{AgentId: "a-1", Uid: 1000, User: "a", Home: "/home/a", Pid: 42, Backend: "broker", Host: "h"},
	}
}

// A visa says what was granted and to whom, and verifies offline.
func TestMint(t *testing.T) {
	at := &clock{now: time.Unix(1_700_000_000, 0)}
	m, key := newMint(t, &startconf.Configuration{}, at)
	r := goodRequest(t)
	r.Audience, r.Nonce = "https://api.example.com", []byte("12345678")
	r.Intent = narrower(t, `filesystem: {read: ["~/work/src/**"]}`)
	reply, err := m.Mint(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := visa.Verify(reply.GetVisa(), visa.Options{
		Now: at.now, Keys: []*journal.Key{key}, AllowSoftware: true, Audience: r.GetAudience(), Nonce: r.GetNonce(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if claims.ExpiresAt-claims.IssuedAt != 120 || reply.GetLifetimeSeconds() != 120 || reply.GetExpiresUnix() != claims.ExpiresAt {
		t.Errorf("lifetime %d, reply %d: want the grant's 120", claims.ExpiresAt-claims.IssuedAt, reply.GetLifetimeSeconds())
	}
	permit, err := policy.ParseCanonical(reply.GetPermit())
	if err != nil {
		t.Fatal(err)
	}
	if hash := permit.Hash(); string(claims.PermitHash) != string(hash[:]) {
		t.Error("the visa names another permit than the reply holds")
	}
	if claims.Ceiling.Version != 7 || claims.Tier != "software" || claims.Asserted.UID != 1000 || claims.Namespace != "dev" {
		t.Errorf("%+v", claims)
	}
	if permit.Mode != policy.Enforce {
		t.Errorf("mode %q: a policy that names none means enforce, also under a wider ceiling", permit.Mode)
	}
	rules := permit.FileRules()
	if d := rules.Decide("/home/a/work/out/x", policy.Read); d.Verdict == policy.VerdictAllow {
		t.Error("the intent did not narrow the permit")
	}
}

// What a policy leaves out is not inherited from a ceiling that is wider.
func TestNoNetworkSectionReachesNothing(t *testing.T) {
	m, _ := newMint(t, &startconf.Configuration{}, nil)
	r := goodRequest(t)
	r.Policy = canonical(t, `filesystem: {read: ["/usr/**"]}`)
	reply, err := m.Mint(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	permit, err := policy.ParseCanonical(reply.GetPermit())
	if err != nil {
		t.Fatal(err)
	}
	if permit.Network == nil || permit.Network.DefaultAction == policy.Allow || len(permit.Network.Endpoints()) > 0 {
		t.Errorf("network %+v", permit.Network)
	}
}

// Whatever asks beyond the level above it is refused, and the error names it.
func TestNarrowing(t *testing.T) {
	m, _ := newMint(t, &startconf.Configuration{}, nil)
	for _, c := range []struct {
		name string
		bend func(r *enclavev1.MintRequest)
		kind error
		want []string
	}{
		{"policy beyond the ceiling, every item named", func(r *enclavev1.MintRequest) {
			r.Policy = canonical(t, `
filesystem: {read: ["/etc/**", "/usr/**"], write: ["/var/**"]}
network: {egress: ["evil.example:443"]}`)
		}, ErrDenied, []string{"/etc/**", "/var/**", "evil.example:443", "ceiling version 7"}},
		{"mode beyond the ceiling", func(r *enclavev1.MintRequest) { r.Policy = canonical(t, "mode: permissive") }, ErrDenied, []string{"mode"}},
		{"another's home", func(r *enclavev1.MintRequest) {
			r.Policy = canonical(t, `filesystem: {read: ["/home/b/**"]}`)
		}, ErrDenied, []string{"/home/b/**"}},
		{"no home, and the grant names one", func(r *enclavev1.MintRequest) { r.Asserted.Home = "" }, ErrDenied, []string{"no home of its own"}},
		{"the whole file system as a home", func(r *enclavev1.MintRequest) { r.Asserted.Home = "/" }, ErrDenied, []string{"no home of its own"}},
		{"a pattern as a home", func(r *enclavev1.MintRequest) {
			r.Asserted.Home = "/*"
			r.Policy = canonical(t, `filesystem: {read: ["/etc/**"]}`)
		}, ErrDenied, []string{"/etc/**"}},
		{"manifest beyond the policy", func(r *enclavev1.MintRequest) {
			r.Manifest = narrower(t, `filesystem: {read: ["/usr/share/**"]}`)
		}, ErrDenied, []string{"manifest", "/usr/share/**"}},
		{"intent beyond the manifest", func(r *enclavev1.MintRequest) {
			r.Manifest = narrower(t, `filesystem: {read: ["/usr/lib/a/**"]}`)
			r.Intent = narrower(t, `filesystem: {read: ["/usr/lib/b/**"]}`)
		}, ErrDenied, []string{"intent", "/usr/lib/b/**"}},
		{"another user", func(r *enclavev1.MintRequest) { r.Asserted.Uid = 1001 }, ErrDenied, []string{"uid 1001"}},
		{"another namespace", func(r *enclavev1.MintRequest) {
			r.Namespace, r.Policy = "prod", form(t, policy.Parse, "namespace: prod")
		}, ErrDenied, []string{`namespace "prod"`}},
		{"policy of another namespace", func(r *enclavev1.MintRequest) { r.Namespace = "signed" }, ErrInvalid, []string{`namespace "dev"`}},
		{"program that is not listed", func(r *enclavev1.MintRequest) {
			r.Namespace, r.Policy, r.Asserted.BinarySha256 = "signed", form(t, policy.Parse, "namespace: signed"), make([]byte, 32)
		}, ErrDenied, []string{"program sha256:0000"}},
		{"program that was not hashed", func(r *enclavev1.MintRequest) {
			r.Namespace, r.Policy = "signed", form(t, policy.Parse, "namespace: signed")
		}, ErrDenied, []string{"listed by hash"}},
		{"lifetime beyond the grant", func(r *enclavev1.MintRequest) { r.TtlSeconds = 121 }, ErrDenied, []string{"at most 120"}},
		{"policy that is not canonical", func(r *enclavev1.MintRequest) { r.Policy = []byte("mode: enforce") }, ErrInvalid, []string{"policy"}},
		{"no policy", func(r *enclavev1.MintRequest) { r.Policy = nil }, ErrInvalid, []string{"policy"}},
		{"policy too large", func(r *enclavev1.MintRequest) { r.Policy = make([]byte, MaxPolicy+1) }, ErrInvalid, []string{"at most"}},
		{"key off the curve", func(r *enclavev1.MintRequest) { r.ConfirmationKey[20] ^= 1 }, ErrInvalid, []string{"cnf"}},
		{"no key", func(r *enclavev1.MintRequest) { r.ConfirmationKey = nil }, ErrInvalid, []string{"cnf"}},
		{"name that breaks out of the SPIFFE ID", func(r *enclavev1.MintRequest) { r.Name = "build-1/../../ns/prod" }, ErrInvalid, []string{"agent name"}},
		{"namespace that breaks out", func(r *enclavev1.MintRequest) { r.Namespace = ".." }, ErrInvalid, []string{"namespace"}},
		{"short nonce", func(r *enclavev1.MintRequest) { r.Nonce = []byte("1234567") }, ErrInvalid, []string{"nonce"}},
		{"relative home", func(r *enclavev1.MintRequest) { r.Asserted.Home = "home" }, ErrInvalid, []string{"home"}},
		{"nobody", func(r *enclavev1.MintRequest) { r.Asserted = nil }, ErrInvalid, []string{"agent id"}},
		{"audience too long", func(r *enclavev1.MintRequest) { r.Audience = strings.Repeat("a", 257) }, ErrInvalid, []string{"audience"}},
		{"odd program hash", func(r *enclavev1.MintRequest) { r.Asserted.BinarySha256 = []byte{1} }, ErrInvalid, []string{"program hash"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := goodRequest(t)
			c.bend(r)
			reply, err := m.Mint(context.Background(), r)
			if !errors.Is(err, c.kind) || reply != nil {
				t.Fatalf("error %v, want %v", err, c.kind)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not name %q", err, w)
				}
			}
		})
	}
}

// A remembered decision is one for exactly this request: changing any part decides again.
func TestDecisionsAreNotMixedUp(t *testing.T) {
	m, _ := newMint(t, &startconf.Configuration{}, nil)
	if _, err := m.Mint(context.Background(), goodRequest(t)); err != nil {
		t.Fatal(err)
	}
	for name, bend := range map[string]func(r *enclavev1.MintRequest){
		"uid":  func(r *enclavev1.MintRequest) { r.Asserted.Uid = 1 },
		"name": func(r *enclavev1.MintRequest) { r.Name = "other" },
		"home": func(r *enclavev1.MintRequest) { r.Asserted.Home = "/home/b" },
		"intent in the place of the manifest": func(r *enclavev1.MintRequest) {
			r.Intent = narrower(t, `filesystem: {read: ["/etc/**"]}`)
		},
		"key": func(r *enclavev1.MintRequest) { r.ConfirmationKey[20] ^= 1 },
	} {
		r := goodRequest(t)
		if _, err := m.Mint(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		bend(r)
		if _, err := m.Mint(context.Background(), r); err == nil {
			t.Errorf("%s changed, and the remembered decision was used", name)
		}
	}
}

func TestRates(t *testing.T) {
	at := &clock{now: time.Unix(1_700_000_000, 0)}
	m, _ := newMint(t, &startconf.Configuration{Rate: 20, AgentRate: 2}, at)
	mint := func(name string) error {
		r := goodRequest(t)
		r.Name = name
		_, err := m.Mint(context.Background(), r)
		return err
	}
	for i := range 2 * agentBurst {
		if err := mint("build-1"); err != nil {
			t.Fatalf("visa %d: %v", i, err)
		}
	}
	if err := mint("build-1"); !errors.Is(err, ErrRate) || !strings.Contains(err.Error(), "build-1") {
		t.Errorf("one agent beyond its burst: %v", err)
	}
	for range 100 {
		mint("build-1")
	}
	for i := range 10 { // only the 10 visas were taken from the 20 of this second, not the refusals
		if err := mint(fmt.Sprint("build-x", i)); err != nil {
			t.Fatalf("another agent: %v", err)
		}
	}
	if err := mint("build-z"); !errors.Is(err, ErrRate) {
		t.Errorf("beyond the limit of the host, with invented names: %v", err)
	}
	at.now = at.now.Add(time.Second)
	if err := mint("build-1"); err != nil {
		t.Errorf("a second later: %v", err)
	}
	at.now = at.now.Add(-time.Hour)
	for range 100 {
		mint("build-1")
	}
	if err := mint("build-1"); !errors.Is(err, ErrRate) {
		t.Errorf("a clock set back refills: %v", err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	d := newDecisions()
	for i := range 3 * maxDecisions {
		d.put([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, &decision{canonical: make([]byte, 16<<10)})
	}
	if len(d.byKey) > maxDecisions || d.bytes > maxDecisionBytes || d.order.Len() != len(d.byKey) {
		t.Errorf("%d decisions of %d bytes remembered", len(d.byKey), d.bytes)
	}
}

// Bytes from the wire never panic, and what is granted lies within the ceiling.
func FuzzMintRequest(f *testing.F) {
	m, _ := newMint(f, &startconf.Configuration{Rate: startconf.MaxRate, AgentRate: startconf.MaxRate}, nil)
	good := goodRequest(f)
	seed := func(bend func(r *enclavev1.MintRequest)) {
		r := proto.Clone(good).(*enclavev1.MintRequest)
		bend(r)
		data, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	seed(func(*enclavev1.MintRequest) {})
	seed(func(r *enclavev1.MintRequest) { r.Intent = narrower(f, `filesystem: {read: ["~/work/a?/**"]}`) })
	seed(func(r *enclavev1.MintRequest) { r.Manifest = []byte(`{"mode":"enforce"}`) })
	seed(func(r *enclavev1.MintRequest) { r.Asserted = nil })
	f.Fuzz(func(t *testing.T, data []byte) {
		var r enclavev1.MintRequest
		if proto.Unmarshal(data, &r) != nil {
			return
		}
		reply, err := m.Mint(context.Background(), &r)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrDenied) && !errors.Is(err, ErrRate) {
				t.Errorf("error without a kind: %v", err)
			}
			return
		}
		permit, err := policy.ParseCanonical(reply.GetPermit())
		if err != nil {
			t.Fatalf("granted permit is not canonical: %v", err)
		}
		c, err := m.opts.Ceiling.Current()
		if err != nil {
			t.Fatal(err)
		}
		within := false
		for _, g := range c.Grants {
			outer, err := expand(g.Permit, r.GetAsserted().GetHome())
			within = within || err == nil && len(policy.Included(permit, outer)) == 0
		}
		if !within {
			t.Errorf("granted beyond every grant: %s", reply.GetPermit())
		}
	})
}

// Who does not wait gets the same visa, for requests that were decided before; others are told to wait.
func TestTryMint(t *testing.T) {
	m, key := newMint(t, &startconf.Configuration{}, nil)
	r := goodRequest(t)
	if taken, err := m.TryMint(r, func(*Ticket) { t.Error("called") }); taken || err != nil {
		t.Fatalf("undecided: taken %v, %v", taken, err)
	}
	if _, err := m.Mint(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	tickets := make(chan *Ticket, 1)
	if taken, err := m.TryMint(r, func(ticket *Ticket) { tickets <- ticket }); !taken || err != nil {
		t.Fatalf("decided: taken %v, %v", taken, err)
	}
	reply, err := (<-tickets).Visa()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := visa.Verify(reply.GetVisa(), visa.Options{Keys: []*journal.Key{key}, AllowSoftware: true}); err != nil {
		t.Error(err)
	}
	r.TtlSeconds = 121
	if taken, err := m.TryMint(r, nil); taken || !errors.Is(err, ErrDenied) {
		t.Errorf("refused: taken %v, %v", taken, err)
	}
	r.Name = ""
	if taken, err := m.TryMint(r, nil); taken || !errors.Is(err, ErrInvalid) {
		t.Errorf("invalid: taken %v, %v", taken, err)
	}
}
