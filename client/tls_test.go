package client_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/client"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func ExampleClient_TLSConfig() {
	c, err := client.FromEnvironment()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	// Mutual TLS as spiffe://.../agent/NAME, with a key that never leaves the enclave's signer.
	conn, err := tls.Dial("tcp", "ledger.example.com:443", c.TLSConfig(context.Background(), nil))
	if errors.Is(err, client.ErrBeyond) {
		fmt.Println("the operator's ceiling gives this agent no TLS key:", err)
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	conn.Close()
}

// authority plays the enclave behind raypherd, with a key of its own; the real ones are asked in parent/daemon.
type authority struct {
	*raypherd
	key    *ecdsa.PrivateKey
	life   time.Duration
	asked  int
	signed [][]byte
}

func (a *authority) TLSCertificate(context.Context, *parentv1.AgentTLSCertificateRequest) (*parentv1.AgentTLSCertificate, error) {
	a.asked++
	if a.code != codes.OK {
		return nil, status.Error(a.code, "in raypherd's words")
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(a.life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	return &parentv1.AgentTLSCertificate{Chain: [][]byte{der}}, err
}

func (a *authority) TLSSign(_ context.Context, r *parentv1.AgentTLSSignRequest) (*parentv1.AgentTLSSignature, error) {
	a.signed = append(a.signed, r.TranscriptHash)
	digest := sha256.Sum256([]byte(strings.Repeat(" ", 64) + "TLS 1.3, client CertificateVerify\x00" + string(r.TranscriptHash)))
	signature, err := ecdsa.SignASN1(rand.Reader, a.key, digest[:])
	return &parentv1.AgentTLSSignature{Signature: signature}, err
}

func tlsClient(t *testing.T, life time.Duration) (*authority, *client.Client) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{raypherd: &raypherd{}, key: key, life: life}
	return a, serveAgent(t, a)
}

// connect runs a handshake with a server that wants a certificate, and returns both sides' errors.
func connect(t *testing.T, config *tls.Config, server *tls.Config) (clients, servers error) {
	t.Helper()
	near, far := net.Pipe()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	server.Certificates, server.ClientAuth = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, tls.RequireAnyClientCert
	result := make(chan error, 1)
	go func() {
		defer far.Close()
		result <- tls.Server(far, server).Handshake()
	}()
	conn := tls.Client(near, config)
	clients = conn.Handshake()
	if clients == nil {
		conn.Read(make([]byte, 1)) // the server's verdict comes after the client's handshake (RFC 8446 section 4.4.2.4)
	}
	near.Close()
	return clients, <-result
}

// One certificate serves until two thirds of its life are over; each connection has its own handshake signed, of either hash.
func TestMutualTLS(t *testing.T) {
	a, c := tlsClient(t, time.Hour)
	config := c.TLSConfig(t.Context(), &tls.Config{InsecureSkipVerify: true})
	for range 2 {
		if clients, servers := connect(t, config, &tls.Config{}); clients != nil || servers != nil {
			t.Fatalf("%v, %v", clients, servers)
		}
	}
	if a.asked != 1 || len(a.signed) != 2 || string(a.signed[0]) == string(a.signed[1]) {
		t.Errorf("%d certificates, %d handshakes", a.asked, len(a.signed))
	}
	if _, err := c.ClientCertificate(t.Context()); err != nil {
		t.Error(err)
	}

	a, c = tlsClient(t, 0)
	config = c.TLSConfig(t.Context(), &tls.Config{InsecureSkipVerify: true})
	for range 2 {
		connect(t, config, &tls.Config{})
	}
	if a.asked != 2 {
		t.Errorf("%d certificates, want another one once it is over", a.asked)
	}
}

// The key signs nothing but the handshake of a TLS 1.3 client; whatever else it is asked stays here.
func TestTLSKeySignsNothingElse(t *testing.T) {
	a, c := tlsClient(t, time.Hour)
	certificate, err := c.ClientCertificate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := certificate.PrivateKey.(*client.TLSKey)
	if !key.Public().(*ecdsa.PublicKey).Equal(&a.key.PublicKey) {
		t.Error("another key")
	}
	spaces, hash := strings.Repeat(" ", 64), strings.Repeat("h", 32)
	for name, sign := range map[string]func() error{
		"a digest": func() error { _, err := key.Sign(nil, []byte(hash), crypto.SHA256); return err },
		"a server's handshake": func() error {
			_, err := key.SignMessage(nil, []byte(spaces+"TLS 1.3, server CertificateVerify\x00"+hash), crypto.SHA256)
			return err
		},
		"a transcript that is none": func() error {
			_, err := key.SignMessage(nil, []byte(spaces+"TLS 1.3, client CertificateVerify\x00"+hash+"x"), crypto.SHA256)
			return err
		},
		"another hash": func() error {
			_, err := key.SignMessage(nil, []byte(spaces+"TLS 1.3, client CertificateVerify\x00"+hash), crypto.SHA384)
			return err
		},
		"a certificate": func() error {
			_, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, certificate.Leaf, key.Public(), key)
			return err
		},
	} {
		if err := sign(); !errors.Is(err, client.ErrTLS) {
			t.Errorf("%s: error %v, want ErrTLS", name, err)
		}
	}
	if len(a.signed) != 0 {
		t.Errorf("%d signatures were asked for", len(a.signed))
	}
	// TLS 1.2 has other things signed: no connection.
	config := c.TLSConfig(t.Context(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if clients, servers := connect(t, config, &tls.Config{MaxVersion: tls.VersionTLS12}); clients == nil || servers == nil {
		t.Error("a connection of TLS 1.2")
	}
}

func TestTLSRefused(t *testing.T) {
	a, c := tlsClient(t, time.Hour)
	a.code = codes.PermissionDenied
	if _, err := c.ClientCertificate(t.Context()); !errors.Is(err, client.ErrBeyond) {
		t.Errorf("error %v, want ErrBeyond", err)
	}
	config := c.TLSConfig(t.Context(), &tls.Config{InsecureSkipVerify: true})
	if clients, _ := connect(t, config, &tls.Config{}); !errors.Is(clients, client.ErrBeyond) {
		t.Errorf("error %v, want ErrBeyond", clients)
	}
}
