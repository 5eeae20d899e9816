package nitro_test

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm/response"

	attest "github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/kms"
	"github.com/raypher/raypher/enclave/kms/kmstest"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/nitro"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/startconf"
)

// A signer's document is what KMS wants, whose policy may also name the configuration (PCR16).
func TestKMS(t *testing.T) {
	module := newModule(t)
	key := ok(nitro.Open(t.Context(), deviceOf(module.Answer), configuration))(t)
	decrypt(t, key, module.RootPEM(), map[int]attest.PCR{
		0: measured.PCR0, 1: measured.PCR1, 2: measured.PCR2, attest.ConfigurationPCR: attest.ConfigurationValue(configuration),
	})
}

// decrypt gets a secret from a KMS whose policy names the registers.
func decrypt(t *testing.T, key *nitro.Key, root []byte, pcrs map[int]attest.PCR) {
	t.Helper()
	verifier := ok(attest.NewVerifier(attest.Config{Roots: ok(attest.ParseRoots(root))(t)}))(t)
	server := kmstest.Start(t, verifier, pcrs)
	client := kms.New(kms.Options{Dial: server.Dial, Attester: key, Roots: server.Roots()})
	secret := startconf.KMSSecret{Name: "openai", Key: kmstest.Key, Ciphertext: server.Encrypt("openai", []byte("sk-123"))}
	if value, err := client.Decrypt(t.Context(), secret); err != nil || string(value) != "sk-123" {
		t.Fatalf("%q, %v", value, err)
	}
	if got := string(server.Documents[0].UserData); got != nitro.RecipientUse {
		t.Errorf("user data %q", got)
	}
}

// A document about a key that KMS encrypts to vouches for no signing key, for nobody.
func TestRecipientVouchesForNothing(t *testing.T) {
	module := newModule(t)
	key := ok(nitro.Open(t.Context(), deviceOf(module.Answer), configuration))(t)
	recipient := ok(rsa.GenerateKey(rand.Reader, 2048))(t)
	document := ok(key.AttestRecipient(t.Context(), &recipient.PublicKey))(t)
	verifier := ok(attest.NewVerifier(attest.Config{Roots: ok(attest.ParseRoots(module.RootPEM()))(t)}))(t)
	expected := attest.Expected{PCRs: map[int]attest.PCR{0: measured.PCR0}}
	if _, err := verifier.Verify(document, expected); err != nil {
		t.Fatalf("the document is not sound: %v", err)
	}
	if _, err := (&attest.KeyVerifier{Verifier: verifier, Expected: expected}).VerifyKey(document); !errors.Is(err, attest.CheckKey) {
		t.Errorf("KeyVerifier: %v", err)
	}
	if _, err := (attest.PinnedKey{}).VerifyKey(document); !errors.Is(err, attest.CheckKey) {
		t.Errorf("PinnedKey: %v", err)
	}
	// Neither would it with a key of the right kind: the user data alone is refused too.
	public := ok(journal.NewKey(key.Public()))(t).PKIX()
	raw := encode(t, map[string]any{"Attestation": map[string]any{"user_data": []byte(nitro.RecipientUse), "public_key": public}})
	var answer response.Response
	if err := cbor.Unmarshal(module.Answer(raw), &answer); err != nil {
		t.Fatal(err)
	}
	if _, err := (&attest.KeyVerifier{Verifier: verifier, Expected: expected}).VerifyKey(answer.Attestation.Document); !errors.Is(err, attest.CheckKey) {
		t.Errorf("KeyVerifier, with a signing key: %v", err)
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := key.AttestRecipient(t.Context(), &recipient.PublicKey); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
