package kms

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/kms/kmstest"
	"github.com/raypher/raypher/lab/nsm"
	"github.com/raypher/raypher/startconf"
)

var measured = eif.Measurements{PCR0: eif.PCR{1}, PCR1: eif.PCR{2}, PCR2: eif.PCR{3}}

// module attests recipients with the laboratory's module; the signer does it in enclave/signer/nitro.TestKMS.
type module struct{ *nsm.Module }

func (m module) AttestRecipient(_ context.Context, key *rsa.PublicKey) ([]byte, error) {
	public, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	raw, err := cbor.Marshal((&request.Attestation{PublicKey: public, UserData: []byte("recipient")}).Encoded())
	if err != nil {
		return nil, err
	}
	var answer response.Response
	if err := cbor.Unmarshal(m.Answer(raw), &answer); err != nil {
		return nil, err
	}
	return answer.Attestation.Document, nil
}

// world is a KMS whose key serves one image, an enclave's module, and a client in between.
type world struct {
	*kmstest.Server
	module module
	client *Client
}

func newWorld(t *testing.T, running eif.Measurements) *world {
	t.Helper()
	made, err := nsm.New(nsm.Options{Image: running})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := nitro.ParseRoots(made.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := nitro.NewVerifier(nitro.Config{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	server := kmstest.Start(t, verifier, map[int]nitro.PCR{0: measured.PCR0, 1: measured.PCR1, 2: measured.PCR2})
	w := &world{Server: server, module: module{made}}
	w.client = New(Options{Dial: server.Dial, Attester: w.module, Roots: server.Roots()})
	return w
}

func (w *world) secret(name, value string) startconf.KMSSecret {
	return startconf.KMSSecret{Name: name, Key: kmstest.Key, Ciphertext: w.Encrypt(name, []byte(value))}
}

// A value arrives, over the whole way: role, signature, document, policy, OpenSSL's envelope.
func TestDecrypt(t *testing.T) {
	w := newWorld(t, measured)
	values := map[string]string{"openai": "sk-123", "long": strings.Repeat("v", MaxValue), "empty": ""}
	for _, openssl := range []bool{false, true} {
		if openssl {
			w.Envelope = func(key *rsa.PublicKey, value []byte) []byte { return openSSL(t, key, value, "-stream") }
		}
		for name, value := range values {
			if got, err := w.client.Decrypt(t.Context(), w.secret(name, value)); err != nil || string(got) != value {
				t.Errorf("%s: %.20q, %v", name, got, err)
			}
		}
	}
	keys := map[string]bool{}
	for _, d := range w.Documents {
		keys[string(d.PublicKey)] = true
	}
	if calls, credentials := w.Calls(); len(keys) != 6 || calls != 6 || credentials != 1 {
		t.Errorf("%d keys, %d calls, credentials asked for %d times: each call has its key, credentials are kept", len(keys), calls, credentials)
	}
}

// What KMS does not decrypt is refused in words, and what is not KMS's answer is not taken for one.
func TestRefusals(t *testing.T) {
	debug := eif.Measurements{}
	other := measured
	other.PCR2 = eif.PCR{9}
	for _, c := range []struct {
		name    string
		running eif.Measurements
		edit    func(*world, *startconf.KMSSecret)
		refused bool
		want    string
	}{
		{"another program", other, nil, true, "AccessDeniedException"},
		{"an enclave in debug mode", debug, nil, true, "AccessDeniedException"},
		{"another root", measured, func(w *world, _ *startconf.KMSSecret) { w.Verifier, _ = nitro.NewVerifier(nitro.Config{}) }, true, "AccessDeniedException"},
		{"a secret under another name", measured, func(_ *world, s *startconf.KMSSecret) { s.Name = "b" }, true, "--encryption-context raypher-secret=NAME"},
		{"a damaged ciphertext", measured, func(_ *world, s *startconf.KMSSecret) { s.Ciphertext[0] ^= 1 }, true, "InvalidCiphertextException"},
		{"another key", measured, func(_ *world, s *startconf.KMSSecret) { s.Key = strings.Replace(s.Key, "key/1234", "key/4321", 1) }, true, "NotFoundException"},
		{"a disabled key", measured, func(w *world, _ *startconf.KMSSecret) { w.Disable() }, true, "the key is disabled"},
		{"a region that the parent does not list", measured, func(_ *world, s *startconf.KMSSecret) { s.Key = strings.Replace(s.Key, "central", "west", 1) }, false, "not listed"},
		{"another certificate", measured, func(w *world, _ *startconf.KMSSecret) {
			w.client = New(Options{Dial: w.Dial, Attester: w.module}) // Amazon's roots
		}, false, "certificate"},
		{"an answer in the clear", measured, answer(map[string]any{"Plaintext": []byte("value"), "KeyId": kmstest.Key}), false, "did not look at the attestation document"},
		{"an answer for another key", measured, answer(map[string]any{"KeyId": kmstest.Key + "0"}), false, "for another key"},
		{"no envelope", measured, answer(map[string]any{"KeyId": kmstest.Key}), false, "CiphertextForRecipient"},
		{"an envelope for another key", measured, answer(map[string]any{"KeyId": kmstest.Key, "CiphertextForRecipient": base64.StdEncoding.EncodeToString(kmstest.Envelope(&oneKey().PublicKey, []byte("x")))}), false, "was not made for the key of this call"},
		{"a long answer", measured, answer(map[string]any{"KeyId": strings.Repeat("x", maxAnswer)}), false, "more than 16384 bytes"},
		{"a redirect", measured, func(w *world, _ *startconf.KMSSecret) {
			w.Answer = func(out http.ResponseWriter, _ map[string]any) {
				out.Header().Set("Location", "https://example.org/")
				out.WriteHeader(http.StatusTemporaryRedirect)
			}
		}, false, "KMS answered 307"},
		{"an error of tomorrow", measured, func(w *world, _ *startconf.KMSSecret) {
			w.Answer = func(out http.ResponseWriter, _ map[string]any) {
				out.WriteHeader(http.StatusInternalServerError)
				out.Write([]byte(`{"__type":"com.amazonaws.kms#KMSInternalException"}`))
			}
		}, false, `500: "KMSInternalException"`},
		{"no JSON", measured, func(w *world, _ *startconf.KMSSecret) {
			w.Answer = func(out http.ResponseWriter, _ map[string]any) { out.Write([]byte("<html>")) }
		}, false, "KMS's answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.running)
			s := w.secret("a", "value")
			if c.edit != nil {
				c.edit(w, &s)
			}
			got, err := w.client.Decrypt(t.Context(), s)
			if got != nil || err == nil || errors.Is(err, ErrRefused) != c.refused || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q, %v, want %q, refused %v", got, err, c.want, c.refused)
			}
			if err != nil && strings.Contains(err.Error(), "value\"") {
				t.Errorf("the value stands in the error: %v", err)
			}
		})
	}
}

// answer replaces what KMS says.
func answer(reply map[string]any) func(*world, *startconf.KMSSecret) {
	return func(w *world, _ *startconf.KMSSecret) {
		w.Answer = func(out http.ResponseWriter, _ map[string]any) { json.NewEncoder(out).Encode(reply) }
	}
}

// A request that was changed on its way is not KMS's to answer: the server of the tests sees it.
func TestServerVerifiesSignatures(t *testing.T) {
	// The example of AWS's documentation ("Signature Version 4 signing process", ListUsers of IAM).
	r, err := http.NewRequest(http.MethodGet, "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	const signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature="+signature)
	const secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	at := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	if err := kmstest.VerifySignature(r, nil, secret, at); err != nil {
		t.Error(err)
	}
	if err := kmstest.VerifySignature(r, []byte("body"), secret, at); err == nil {
		t.Error("another body is taken")
	}
	if err := kmstest.VerifySignature(r, nil, secret, at.Add(6*time.Minute)); err == nil {
		t.Error("an old signature is taken")
	}
}

// The metadata service is the parent's word: whatever it says ends in words.
func TestMetadataService(t *testing.T) {
	const good = `{"Code":"Success","AccessKeyId":"a","SecretAccessKey":"b","Token":"c","Expiration":"2026-01-02T03:04:05Z"}`
	for _, c := range []struct {
		name              string
		token, role, keys string
		status            int
		want              string
	}{
		{"good", "t", "role", good, 200, ""},
		{"a second profile", "t", "role\nother", good, 200, ""},
		{"no token", "", "role", good, 200, "a token of 0 bytes"},
		{"a long token", strings.Repeat("t", 1000), "role", good, 200, "a token of 1000 bytes"},
		{"no role", "t", "", good, 200, "is no role"},
		{"a role that is a path", "t", "../x", good, 200, "is no role"},
		{"no credentials", "t", "role", `{"Code":"AssumeRoleUnauthorizedAccess"}`, 200, `it says "AssumeRoleUnauthorizedAccess"`},
		{"no JSON", "t", "role", "x", 200, "the answer for role role"},
		{"switched off", "t", "role", good, 403, "answered 403"},
		{"too long", "t", "role", strings.Repeat(" ", maxAnswer+1), 200, "more than 16384 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				switch {
				case r.Method == http.MethodPut:
					w.Write([]byte(c.token))
				case strings.HasSuffix(r.URL.Path, "/"):
					w.Write([]byte(c.role))
				default:
					w.Write([]byte(c.keys))
				}
			})}
			go server.Serve(listener)
			t.Cleanup(func() { server.Close() })
			dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, listener.Addr().String())
			}
			got, err := New(Options{Dial: dial}).role.credentials(t.Context())
			if c.want == "" && (err != nil || got.AccessKeyID != "a" || got.SessionToken != "c") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%+v, %v, want %q", got, err, c.want)
			}
		})
	}
}

// Each secret goes its own way: one that is refused, or one without an answer, holds up no other. A refusal ends what was held; silence does not.
func TestSecrets(t *testing.T) {
	w := newWorld(t, measured)
	good, gone := w.secret("good", "value 1"), w.secret("gone", "value 2")
	gone.Ciphertext[0] ^= 1
	away := w.secret("away", "value 3")
	away.Key = strings.Replace(away.Key, "central", "west", 1)
	var log bytes.Buffer
	s := NewSecrets(w.client, []startconf.KMSSecret{away, gone, good}, slog.New(slog.NewTextHandler(&log, nil)))
	if _, err := s.Secret("good"); !errors.Is(err, ErrNoSecret) || !strings.Contains(err.Error(), "not fetched yet") {
		t.Errorf("before: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	for name, want := range map[string]string{"gone": "InvalidCiphertextException", "away": "not listed"} {
		for _, err := s.Secret(name); !strings.Contains(err.Error(), want); _, err = s.Secret(name) {
			if ctx.Err() != nil {
				t.Fatalf("%s: %v, want %q", name, err, want)
			}
			time.Sleep(time.Millisecond)
		}
	}
	for len(s.Names()) == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	value, err := s.Secret("good")
	if err != nil || string(value) != "value 1" || len(s.Names()) != 1 {
		t.Errorf("%q, %v, %v", value, err, s.Names())
	}
	clear(value) // a copy
	if _, err := s.Secret("other"); !errors.Is(err, ErrNoSecret) || !strings.Contains(err.Error(), "no kms_secret") {
		t.Errorf("a name that is not listed: %v", err)
	}
	w.Answer = func(out http.ResponseWriter, _ map[string]any) { out.WriteHeader(http.StatusServiceUnavailable) }
	if s.ask(t.Context(), good) {
		t.Error("no answer is taken for one")
	}
	if value, err := s.Secret("good"); err != nil || string(value) != "value 1" {
		t.Errorf("while KMS is away: %q, %v", value, err)
	}
	w.Answer = nil
	w.Disable()
	if !s.ask(t.Context(), good) {
		t.Error("a refusal is no answer")
	}
	if _, err := s.Secret("good"); !errors.Is(err, ErrRefused) || len(s.Names()) != 0 {
		t.Errorf("what KMS refuses is kept: %v", err)
	}
	if !strings.Contains(log.String(), "the key is disabled") || strings.Contains(log.String(), "value 1") {
		t.Error(log.String())
	}
}

// All of Amazon's roots are in the program, and no other.
func TestRoots(t *testing.T) {
	pool, found := Roots(), 0
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		_, err = certificate.Verify(x509.VerifyOptions{Roots: pool})
		if amazon := strings.Contains(certificate.Subject.String(), "Amazon Root CA") || strings.Contains(certificate.Subject.String(), "Starfield Services"); amazon != (err == nil) {
			t.Errorf("%s: %v", certificate.Subject, err)
		}
		if err == nil {
			found++
		}
	}
	if found != len(amazonRoots) {
		t.Errorf("%d roots, expected %d: has Mozilla's list lost one?", found, len(amazonRoots))
	}
}
