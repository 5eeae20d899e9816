package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func keyFile(t *testing.T, key *ecdsa.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A result is shown with what it says and whether that was verified, and a wrong key or a late hour refuses it.
func TestAttestResult(t *testing.T) {
	signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	enclave, err := journal.NewKey(journaltest.NewKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	write := func(age time.Duration) string {
		issued := time.Now().Add(-age).UTC().Truncate(time.Second)
		token, err := result.Sign(&result.Result{
			Issuer: "controller", Build: "v1", TrustDomain: "raypher.local", Host: "web-1", Tier: "nitro", Key: enclave, Measurements: "release 1",
			Nonce: []byte("nonce"), Issued: issued, Expires: issued.Add(10 * time.Minute),
		}, signing)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "result")
		if err := os.WriteFile(name, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	fresh, old := write(0), write(time.Hour)
	for _, c := range []struct {
		name  string
		args  []string
		want  string // in what it prints
		fails string // in the error
	}{
		{"verified", []string{"--file", fresh, "--key", keyFile(t, &signing.PublicKey)}, "verified\n", ""},
		{"whose", []string{"--file", fresh}, "spiffe://raypher.local/host/web-1", ""},
		{"not verified", []string{"--file", fresh}, "not verified", ""},
		{"wrong key", []string{"--file", fresh, "--key", keyFile(t, &stranger.PublicKey)}, "", "signed by no key that is trusted"},
		{"one of two keys", []string{"--file", fresh, "--key", keyFile(t, &stranger.PublicKey), "--key", keyFile(t, &signing.PublicKey)}, "verified\n", ""},
		{"over", []string{"--file", old, "--key", keyFile(t, &signing.PublicKey)}, "", "it ended at"},
		{"no result", []string{"--file", keyFile(t, &signing.PublicKey)}, "", "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			command := attestResultCommand()
			command.SetArgs(c.args)
			command.SetOut(&out)
			command.SilenceErrors, command.SilenceUsage = true, true
			err := command.Execute()
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
				t.Errorf("error %v, want %q", err, c.fails)
			}
			if !strings.Contains(out.String(), c.want) || c.fails != "" && out.Len() > 0 {
				t.Errorf("printed:\n%s", out.String())
			}
		})
	}
}

// The status says whether there is a controller, and until when the host works on without it.
func TestFleetLines(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	if lines := fleetLines(&parentv1.OperatorFleetStatus{}, now); lines != nil {
		t.Errorf("without a controller: %q", lines)
	}
	text := strings.Join(fleetLines(&parentv1.OperatorFleetStatus{
		Controller: "c.example:1", Result: "x", ResultExpiresUnix: now.Unix() + 90, ExchangedUnix: now.Unix(), Error: "Unavailable: \x1b[1mgone",
		Secrets: []string{"a", "b/c"}, PoliciesUntilUnix: now.Unix() + 3600, PoliciesError: "down",
		Policies: []*parentv1.OperatorPolicy{{Name: "p", Version: 2, CanaryPercent: 10}},
	}, now), "\n")
	for _, want := range []string{"in 1m30s", "in 1h0m0s", "secrets\ta b/c", "fleet:p version 2, for 10 % of agents", "last attempt: down", "last reached by the enclave at 2027"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.ContainsRune(text, 0x1b) {
		t.Errorf("a control character: %q", text)
	}
	text = strings.Join(fleetLines(&parentv1.OperatorFleetStatus{Controller: "c.example:1"}, now), "\n")
	if !strings.Contains(text, "no result in force") || !strings.Contains(text, "not reached") {
		t.Errorf("never attested:\n%s", text)
	}
}
