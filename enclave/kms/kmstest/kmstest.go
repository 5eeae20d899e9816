// Package kmstest is a KMS and an instance metadata service for tests, in this process and on loopback: the real wire formats, the signature of
// each request verified, the attestation document verified and compared with a policy, the answer encrypted to the key in the document. It
// shares no code with what calls it.
package kmstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/nitro"
)

// Region and Key are the server's one region and the ARN of its one key.
const (
	Region = "eu-central-1"
	Key    = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	host   = "kms.eu-central-1.amazonaws.com"
	role   = "raypher-host"
)

// Server is both services.
type Server struct {
	// Verifier and PCRs are the key's policy: kms:RecipientAttestation:PCR0 and so on.
	Verifier *nitro.Verifier
	PCRs     map[int]nitro.PCR
	// Envelope makes CiphertextForRecipient; nil: Envelope.
	Envelope func(key *rsa.PublicKey, value []byte) []byte
	// Answer replaces an answer of KMS; nil: none.
	Answer func(w http.ResponseWriter, reply map[string]any)

	tls, metadata *httptest.Server
	certificate   *x509.Certificate

	mu          sync.Mutex
	values      map[string]value // by ciphertext
	disabled    bool
	credentials int // how often they were asked for
	calls       int
	Documents   []*nitro.Document // of the calls that were answered
}

type value struct {
	plain   []byte
	context string
}

// Start starts both. They end with the test.
func Start(t testing.TB, verifier *nitro.Verifier, pcrs map[int]nitro.PCR) *Server {
	t.Helper()
	s := &Server{Verifier: verifier, PCRs: pcrs, Envelope: Envelope, values: make(map[string]value)}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	if s.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s.tls = httptest.NewUnstartedServer(http.HandlerFunc(s.serveKMS))
	s.tls.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
	s.tls.StartTLS()
	t.Cleanup(s.tls.Close)
	s.metadata = httptest.NewServer(http.HandlerFunc(s.serveMetadata))
	t.Cleanup(s.metadata.Close)
	return s
}

// Roots are those of the server's certificate.
func (s *Server) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.certificate)
	return pool
}

// Dial is the parent: it knows two addresses.
func (s *Server) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch address {
	case host + ":443":
		address = s.tls.Listener.Addr().String()
	case "169.254.169.254:80":
		address = s.metadata.Listener.Addr().String()
	default:
		return nil, fmt.Errorf("dial %s: not listed", address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// Encrypt returns a ciphertext for a value under Key with the encryption context of a name.
func (s *Server) Encrypt(name string, plain []byte) []byte {
	ciphertext := make([]byte, 80)
	rand.Read(ciphertext) // never fails
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[string(ciphertext)] = value{plain, name}
	return ciphertext
}

// Disable disables the key.
func (s *Server) Disable() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disabled = true
}

// Calls says how often KMS and how often credentials were asked for.
func (s *Server) Calls() (kms, credentials int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls, s.credentials
}

// decryptRequest is API_Decrypt.
type decryptRequest struct {
	CiphertextBlob    []byte
	EncryptionContext map[string]string
	KeyId             string
	Recipient         struct {
		AttestationDocument    []byte
		KeyEncryptionAlgorithm string
	}
}

func (s *Server) serveKMS(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	reply, failure, message := s.decrypt(r, body)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if s.Answer != nil {
		s.Answer(w, reply)
		return
	}
	if failure != "" {
		w.WriteHeader(http.StatusBadRequest)
		reply = map[string]any{"__type": failure, "message": message}
	}
	json.NewEncoder(w).Encode(reply)
}

// decrypt judges as KMS does, in this order: who calls, then the key, then the document against the policy, then the ciphertext.
func (s *Server) decrypt(r *http.Request, body []byte) (reply map[string]any, failure, message string) {
	if err := VerifySignature(r, body, secretKey, time.Now()); err != nil || r.Header.Get("X-Amz-Security-Token") != sessionToken {
		return nil, "InvalidSignatureException", fmt.Sprint(err)
	}
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.Host != host || r.Header.Get("X-Amz-Target") != "TrentService.Decrypt" ||
		r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		return nil, "UnknownOperationException", "this is not Decrypt"
	}
	var q decryptRequest
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, "SerializationException", err.Error()
	}
	if q.KeyId != Key {
		return nil, "NotFoundException", "Invalid keyId"
	}
	if s.disabled {
		return nil, "DisabledException", Key + " is disabled."
	}
	document, err := s.Verifier.Verify(q.Recipient.AttestationDocument, nitro.Expected{PCRs: s.PCRs})
	if err != nil || q.Recipient.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" {
		return nil, "AccessDeniedException", "User: arn:aws:sts::111122223333:assumed-role/" + role + " is not authorized to perform: kms:Decrypt"
	}
	public, err := x509.ParsePKIXPublicKey(document.PublicKey)
	key, ok := public.(*rsa.PublicKey)
	if err != nil || !ok || key.N.BitLen() != 2048 {
		return nil, "ValidationException", "the document's key is not RSA of 2048 bits"
	}
	held, ok := s.values[string(q.CiphertextBlob)]
	if !ok || len(q.EncryptionContext) != 1 || q.EncryptionContext["raypher-secret"] != held.context {
		return nil, "InvalidCiphertextException", ""
	}
	s.Documents = append(s.Documents, document)
	return map[string]any{
		"CiphertextForRecipient": s.Envelope(key, held.plain), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": Key,
		"KeyMaterialId": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	}, "", ""
}
