package enclave

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/enclave/agenttls"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/visa"
)

const tlsCeiling = `
version: 10
trust_domain: raypher.local
grants:
  - namespace: default
    agents: [agent]
    uids: [1000]
    own_key: true
    tls_keys: true
    permit: {mode: permissive, filesystem: {read: ["/**"]}}
  - namespace: "*"
    agents: ["*"]
    permit: {mode: permissive, filesystem: {read: ["/**"]}}
`

// install signs a ceiling with the operator key of development and installs it.
func (r *running) install(t *testing.T, client enclavev1.EnclaveClient, text string) {
	t.Helper()
	key, _, err := ceiling.DevelopmentKey(r.opts.State)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ceiling.ParseSource("c", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := ceiling.Sign(c, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.InstallCeiling(t.Context(), &enclavev1.InstallCeilingRequest{Bundle: bundle}); err != nil {
		t.Fatal(err)
	}
}

// keepEntries is keepStore, and says what the store holds.
func keepEntries(t testing.TB, client enclavev1.EnclaveClient) func() []journal.Entry {
	t.Helper()
	var (
		mu   sync.Mutex
		kept []journal.Entry
	)
	keepStoreOf(t, client, func(b *enclavev1.Batch) {
		mu.Lock()
		defer mu.Unlock()
		for _, raw := range b.GetEntries() {
			e, err := journal.Decode(raw)
			if err != nil {
				t.Error(err)
			}
			kept = append(kept, e)
		}
	})
	return func() []journal.Entry {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(kept)
	}
}

func granted(t *testing.T, client enclavev1.EnclaveClient, change func(*enclavev1.MintRequest)) []byte {
	t.Helper()
	request := mintRequest()
	if change != nil {
		change(request)
	}
	reply, err := client.Mint(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return reply.GetVisa()
}

// agentKey is an agent's TLS key as package client makes it, over the service of the enclave.
type agentKey struct {
	client enclavev1.EnclaveClient
	visa   []byte
	public crypto.PublicKey
}

func (k *agentKey) Public() crypto.PublicKey { return k.public }

func (k *agentKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("asked to sign a digest")
}

func (k *agentKey) SignMessage(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	_, transcript, _ := bytes.Cut(message, []byte{0})
	reply, err := k.client.TLSSign(context.Background(), &enclavev1.TLSSignRequest{Visa: k.visa, TranscriptHash: transcript})
	return reply.GetSignature(), err
}

// An agent authenticates in mutual TLS with a key that it never sees, under the name of its visa and until that ends. Both uses are in
// the journal first, and so are the keys.
func TestTLSOfAgents(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	entries := keepEntries(t, client)
	r.install(t, client, tlsCeiling)
	granting := granted(t, client, nil)
	claims, err := visa.Read(granting)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := client.TLSCertificate(t.Context(), &enclavev1.TLSCertificateRequest{Visa: granting})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(reply.GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != claims.Subject || !leaf.NotAfter.Equal(claims.Expires()) || leaf.IsCA {
		t.Errorf("certificate for %v until %s, want %s until %s", leaf.URIs, leaf.NotAfter, claims.Subject, claims.Expires())
	}
	described, err := client.DescribeKey(t.Context(), &enclavev1.DescribeKeyRequest{Purpose: string(journal.PurposeTLSAuthority), Nonce: make([]byte, 8)})
	if err != nil {
		t.Fatal(err)
	}
	statement, authority, err := journal.VerifyStatement(described.GetEvidence().GetDocument())
	if err != nil || !bytes.Equal(authority.PKIX(), described.GetPublicKey()) || !bytes.Equal(statement.Nonce, make([]byte, 8)) {
		t.Errorf("evidence of the authority's key: %v", err)
	}
	roots := x509.NewCertPool()
	root, err := x509.ParseCertificate(described.GetCertificate())
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	key := &agentKey{client, granting, leaf.PublicKey}
	if peer := handshake(t, roots, tls.Certificate{Certificate: reply.GetChain(), PrivateKey: key}); peer != claims.Subject {
		t.Errorf("the server saw %q", peer)
	}
	var uses, purposes []string
	for _, e := range entries() {
		switch e.Type {
		case journal.TypeTLS:
			u, err := journal.DecodeTLSUse(e.Payload)
			if err != nil || u.Subject != claims.Subject || !bytes.Equal(u.VisaID, claims.ID) || u.KeyHash != sha256.Sum256(leaf.RawSubjectPublicKeyInfo) {
				t.Fatalf("%+v, %v", u, err)
			}
			uses = append(uses, u.Use)
		case journal.TypeKey:
			k, err := journal.DecodeFurtherKey(e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			purposes = append(purposes, string(k.Purpose))
		}
	}
	if got := strings.Join(uses, " "); got != "certificate handshake" {
		t.Errorf("uses on record: %s", got)
	}
	if got := strings.Join(purposes, " "); got != "namespace tls tls-authority" {
		t.Errorf("keys on record: %s", got)
	}
}

// handshake runs mutual TLS between a client with the certificate and a server that trusts roots, and returns whom the server saw.
func handshake(t *testing.T, roots *x509.CertPool, client tls.Certificate) string {
	t.Helper()
	server, _ := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := make(chan string, 1)
	go func() {
		defer close(seen)
		raw, err := l.Accept()
		if err != nil {
			return
		}
		defer raw.Close()
		conn := raw.(*tls.Conn)
		if err := conn.Handshake(); err != nil {
			t.Error(err)
			return
		}
		seen <- conn.ConnectionState().PeerCertificates[0].URIs[0].String()
		io.Copy(conn, conn)
	}()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", l.Addr().String(), &tls.Config{
		InsecureSkipVerify: true, // the server is a stand-in; what is tested is the client's certificate
		Certificates:       []tls.Certificate{client},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return <-seen
}

// What no visa proves or no grant allows is refused, and nothing that is no transcript hash is signed.
func TestTLSRefuses(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	r.install(t, client, tlsCeiling)
	good := granted(t, client, nil)
	hash := make([]byte, sha256.Size)
	bent := bytes.Clone(good)
	bent[len(bent)/2] ^= 1
	stranger := serve(t)
	other, _ := stranger.good(t)
	keepStore(t, other)
	stranger.install(t, other, tlsCeiling)
	for name, c := range map[string]struct {
		visa, transcript []byte
		want             codes.Code
		words            string
	}{
		"no visa":                  {nil, hash, codes.InvalidArgument, "visa malformed"},
		"an altered visa":          {bent, hash, codes.InvalidArgument, ""},
		"another enclave's":        {granted(t, other, nil), hash, codes.InvalidArgument, "not trusted"},
		"an agent without a grant": {granted(t, client, func(r *enclavev1.MintRequest) { r.Name = "other" }), hash, codes.PermissionDenied, "tls_keys: true"},
		"a user without a grant":   {granted(t, client, func(r *enclavev1.MintRequest) { r.Asserted.Uid = 1001 }), hash, codes.PermissionDenied, "tls_keys: true"},
		"an empty transcript":      {good, nil, codes.InvalidArgument, "transcript hash of 0 bytes"},
		"a whole CertificateVerify": {good, append(append(bytes.Repeat([]byte(" "), 64), "TLS 1.3, server CertificateVerify\x00"...), hash...),
			codes.InvalidArgument, "transcript hash of 130 bytes"},
		"SHA-512": {good, make([]byte, 64), codes.InvalidArgument, "transcript hash of 64 bytes"},
	} {
		_, err := client.TLSSign(t.Context(), &enclavev1.TLSSignRequest{Visa: c.visa, TranscriptHash: c.transcript})
		if status.Code(err) != c.want || !strings.Contains(err.Error(), c.words) {
			t.Errorf("sign with %s: %v, want %s with %q", name, err, c.want, c.words)
		}
		if len(c.transcript) != len(hash) {
			continue
		}
		if _, err := client.TLSCertificate(t.Context(), &enclavev1.TLSCertificateRequest{Visa: c.visa}); status.Code(err) != c.want {
			t.Errorf("certificate with %s: %v, want %s", name, err, c.want)
		}
	}
	if _, err := client.TLSSign(t.Context(), &enclavev1.TLSSignRequest{Visa: good, TranscriptHash: hash}); err != nil {
		t.Errorf("good: %v", err)
	}
	for range 10 * agenttls.AgentRate {
		if _, err := client.TLSSign(t.Context(), &enclavev1.TLSSignRequest{Visa: good, TranscriptHash: hash}); status.Code(err) == codes.ResourceExhausted {
			return
		}
	}
	t.Error("no rate bounds an agent's handshakes")
}

// The right to sign ends with the visa.
func TestTLSEndsWithTheVisa(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	r.install(t, client, tlsCeiling)
	good := granted(t, client, nil)
	now := claimsOf(t, good).Expires()
	a := agenttls.New(agenttls.Options{
		TrustDomain: r.opts.Configuration.TrustDomain, Key: r.key, Ceiling: r.ceiling, Journal: r.journal, Keys: r.keys,
		Now: func() time.Time { return now },
	})
	for _, c := range []struct {
		before time.Duration
		want   error
	}{{time.Second, nil}, {0, agenttls.ErrInvalid}} {
		now = claimsOf(t, good).Expires().Add(-c.before)
		if _, err := a.SignHandshake(t.Context(), good, make([]byte, 32)); !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, visa.ErrExpired) {
			t.Errorf("%s before its end: error %v, want %v", c.before, err, c.want)
		}
		if _, err := a.Certificate(t.Context(), good); !errors.Is(err, c.want) {
			t.Errorf("certificate %s before its end: error %v, want %v", c.before, err, c.want)
		}
	}
}

// The signature is over the content that RFC 8446 section 4.4.3 prescribes for clients, for both sizes of hash, and over nothing else.
func TestWhatTLSSigns(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	r.install(t, client, tlsCeiling)
	good := granted(t, client, nil)
	reply, err := client.TLSCertificate(t.Context(), &enclavev1.TLSCertificateRequest{Visa: good})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(reply.GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{32, 48} {
		transcript := bytes.Repeat([]byte{7}, size)
		signed, err := client.TLSSign(t.Context(), &enclavev1.TLSSignRequest{Visa: good, TranscriptHash: transcript})
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(append(append(bytes.Repeat([]byte{0x20}, 64), "TLS 1.3, client CertificateVerify\x00"...), transcript...))
		if !ecdsa.VerifyASN1(leaf.PublicKey.(*ecdsa.PublicKey), digest[:], signed.GetSignature()) {
			t.Errorf("%d bytes: the signature is of something else", size)
		}
	}
}

func TestDescribeKey(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	r.install(t, client, tlsCeiling)
	nonce := []byte("a fresh nonce")
	d, err := client.DescribeKey(t.Context(), &enclavev1.DescribeKeyRequest{Purpose: string(journal.PurposeNamespace), Name: "default", Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	key, err := journal.ParseKey(d.GetPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := visa.Verify(granted(t, client, nil), visa.Options{Keys: []*journal.Key{key}, AllowSoftware: true}); err != nil {
		t.Errorf("a visa of the namespace under the key that was described: %v", err)
	}
	for _, c := range []struct {
		purpose, name string
		nonce         []byte
		want          codes.Code
	}{
		{"namespace", "other", nonce, codes.FailedPrecondition}, {"namespace", "", nonce, codes.FailedPrecondition},
		{"tls-authority", "raypher.local", nonce, codes.InvalidArgument}, {"tls", claimsOf(t, granted(t, client, nil)).Subject, nonce, codes.InvalidArgument},
		{"", "", nonce, codes.InvalidArgument}, {"namespace", "default", nil, codes.InvalidArgument},
	} {
		if _, err := client.DescribeKey(t.Context(), &enclavev1.DescribeKeyRequest{Purpose: c.purpose, Name: c.name, Nonce: c.nonce}); status.Code(err) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func claimsOf(t *testing.T, encoded []byte) *visa.Claims {
	t.Helper()
	claims, err := visa.Read(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return claims
}
