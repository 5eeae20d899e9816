package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
	"github.com/raypher/raypher/startconf"
)

const host = "web-1"

// controller is one that does what a test wants, also what no real one does. What the real one does is held by test/fleet.
type controller struct {
	controllerv1.UnimplementedAttestationServer
	controllerv1.UnimplementedSecretsServer
	controllerv1.UnimplementedLeasesServer
	controllerv1.UnimplementedDistributionServer

	t       *testing.T
	address string
	results *ecdsa.PrivateKey // signs
	tlsKey  startconf.KeyHash
	stop    func()

	mu       sync.Mutex
	life     time.Duration
	lie      func(*result.Result) // about what is signed; nil: the truth
	token    string               // sent instead of a result
	refusal  error                // of Attest
	attested int
	request  *controllerv1.AttestRequest // newest
	signing  *journal.Key                // of the caller, as TLS has proven it
	secrets  []*plain
	gone     []string
	acked    []*controllerv1.HeldSecret
	bundle   []byte
	counter  struct {
		Anchor           []byte
		Counter, Version uint64
	}
	taken map[string]*controllerv1.LeaseCounter // by request id
	lose  int                                   // answers of Take that are not sent
}

// plain is a secret of the controller. change is what happens to it on the way; nil: nothing.
type plain struct {
	label  recipient.Label
	value  []byte
	change func(*controllerv1.SealedSecret)
}

func certificateOf(t testing.TB) (tls.Certificate, startconf.KeyHash) {
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
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sha256.Sum256(public)
}

func newController(t *testing.T) *controller {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate, hash := certificateOf(t)
	c := &controller{t: t, results: key, tlsKey: hash, life: time.Hour, taken: map[string]*controllerv1.LeaseCounter{}}
	c.counter.Anchor = bytes.Repeat([]byte{7}, 32)
	c.serve("127.0.0.1:0", certificate)
	t.Cleanup(func() { c.stop() })
	return c
}

func (c *controller) serve(address string, certificate tls.Certificate) {
	c.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.address = l.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
	})))
	controllerv1.RegisterAttestationServer(server, c)
	controllerv1.RegisterSecretsServer(server, c)
	controllerv1.RegisterLeasesServer(server, c)
	controllerv1.RegisterDistributionServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	c.stop = sync.OnceFunc(func() { server.Stop(); <-served })
}

func (c *controller) Challenge(ctx context.Context, _ *controllerv1.ChallengeRequest) (*controllerv1.ChallengeReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, _ := peer.FromContext(ctx)
	chain := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates
	if len(chain) != 2 || chain[0].CheckSignatureFrom(chain[1]) != nil {
		return nil, status.Error(codes.Unauthenticated, "not an enclave's certificates")
	}
	key, err := journal.ParseKey(chain[1].RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, err
	}
	c.signing = key
	nonce := make([]byte, 32)
	rand.Read(nonce)
	return &controllerv1.ChallengeReply{Nonce: nonce}, nil
}

func (c *controller) Attest(_ context.Context, r *controllerv1.AttestRequest) (*controllerv1.AttestReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.request = r
	if c.refusal != nil {
		return nil, c.refusal
	}
	statement, key, err := journal.VerifyStatement(r.GetDocument())
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	configuration, err := startconf.Parse("configuration", r.GetConfiguration())
	if err != nil || configuration.Hash() != statement.ConfigurationHash || !bytes.Equal(statement.Nonce, r.GetNonce()) || key.ID() != c.signing.ID() {
		return nil, status.Errorf(codes.PermissionDenied, "configuration, nonce or key: %v", err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	signed := &result.Result{
		Issuer: "controller", Build: "test", TrustDomain: "raypher.local", Host: host, Tier: r.GetTier(), Key: key, Epoch: statement.Epoch,
		Configuration: statement.ConfigurationHash, Measurements: "set", CeilingVersion: r.GetCeilingVersion(), CeilingHash: r.GetCeilingHash(),
		Nonce: r.GetNonce(), Issued: now, Expires: now.Add(c.life),
	}
	if c.lie != nil {
		c.lie(signed)
	}
	token, err := result.Sign(signed, c.results)
	if err != nil {
		return nil, err
	}
	c.attested++
	if c.token != "" {
		token = c.token
	}
	return &controllerv1.AttestReply{Result: token, ExpiresUnix: signed.Expires.Unix()}, nil
}

func (c *controller) Fetch(_ context.Context, r *controllerv1.FetchSecretsRequest) (*controllerv1.FetchSecretsReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, err := recipient.Verify(r.GetRecipient(), c.signing, time.Now())
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	reply := &controllerv1.FetchSecretsReply{Gone: c.gone}
	for _, s := range c.secrets {
		if slices.ContainsFunc(r.GetHeld(), func(h *controllerv1.HeldSecret) bool {
			return h.GetName() == s.label.Name && h.GetVersion() == s.label.Version
		}) {
			continue
		}
		encapsulated, ciphertext, err := to.Seal(s.label, s.value)
		if err != nil {
			return nil, err
		}
		sealed := &controllerv1.SealedSecret{
			Name: s.label.Name, Version: s.label.Version, Encapsulated: encapsulated, Ciphertext: ciphertext, ExpiresUnix: s.label.Expires,
		}
		if s.change != nil {
			s.change(sealed)
		}
		reply.Secrets = append(reply.Secrets, sealed)
	}
	return reply, nil
}

func (c *controller) Acknowledge(_ context.Context, r *controllerv1.AcknowledgeSecretsRequest) (*controllerv1.AcknowledgeSecretsReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = r.GetHeld()
	return &controllerv1.AcknowledgeSecretsReply{}, nil
}

func (c *controller) Ceiling(_ context.Context, r *controllerv1.CeilingRequest) (*controllerv1.CeilingReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.GetVersion() >= 5 {
		return &controllerv1.CeilingReply{}, nil
	}
	return &controllerv1.CeilingReply{Bundle: c.bundle}, nil
}

func (c *controller) Read(context.Context, *controllerv1.ReadLeaseRequest) (*controllerv1.LeaseCounter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.copyOfCounter(), nil
}

func (c *controller) copyOfCounter() *controllerv1.LeaseCounter {
	return &controllerv1.LeaseCounter{Anchor: c.counter.Anchor, Counter: c.counter.Counter, Version: c.counter.Version}
}

func (c *controller) Take(_ context.Context, r *controllerv1.TakeLeaseRequest) (*controllerv1.LeaseCounter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := c.taken[string(r.GetRequestId())]
	if answer == nil {
		if r.GetExpected() != c.counter.Counter {
			return nil, status.Error(codes.Aborted, "somebody else counted")
		}
		c.counter.Counter++
		answer = c.copyOfCounter()
		c.taken[string(r.GetRequestId())] = answer
	}
	if c.lose > 0 {
		c.lose--
		return nil, status.Error(codes.Unavailable, "the answer is lost")
	}
	return answer, nil
}

func (c *controller) Raise(_ context.Context, r *controllerv1.RaiseLeaseRequest) (*controllerv1.LeaseCounter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counter.Version = max(c.counter.Version, r.GetVersion())
	return c.copyOfCounter(), nil
}

// client is an enclave's, connected without a parent between; change changes its options.
func (c *controller) client(change func(*Options)) *Client {
	c.t.Helper()
	dir := c.t.TempDir()
	key, _, err := software.Open(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&c.results.PublicKey)
	if err != nil {
		c.t.Fatal(err)
	}
	_, caller := certificateOf(c.t)
	o := Options{
		Configuration: &startconf.Configuration{
			CallerKeys: []startconf.KeyHash{caller}, Controller: c.address, ControllerKeys: []startconf.KeyHash{c.tlsKey}, ResultKeys: [][]byte{der},
		},
		Dial: func(ctx context.Context, host string, port uint16) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", c.address)
		},
		Certificate: shown(c.t, key), Signer: key, State: dir, Host: host, Log: slog.New(slog.DiscardHandler),
		Ceiling:        func() (uint64, journal.Hash) { return 0, journal.Hash{} },
		InstallCeiling: func(context.Context, []byte) error { return nil },
	}
	o.Configuration.Defaults()
	rand.Read(o.Epoch[:])
	if change != nil {
		change(&o)
	}
	client, err := New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}
