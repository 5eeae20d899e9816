package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/seal"
)

// An operator's way with a secret: read the PCRs, have them approved, seal, open, seal again for an upgrade.
func TestSealCommands(t *testing.T) {
	device, dir := tpmtest.Start(t, t.TempDir()).Socket, t.TempDir()
	run := func(in []byte, args ...string) ([]byte, error) {
		var out, errs bytes.Buffer
		err := tpmCommand(context.Background(), append(args, "--tpm-device", device, "--config", dir), bytes.NewReader(in), &out, &errs)
		return out.Bytes(), err
	}
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := func(out []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := good(x509.MarshalPKIXPublicKey(&key.PublicKey))
	public := file("key.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	lines := strings.Split(strings.TrimSpace(string(good(run(nil, "pcrs")))), "\n")
	if len(lines) != 8 || !strings.HasPrefix(lines[7], "7 = ") {
		t.Fatalf("%q", lines)
	}
	approve := func(name string, version uint64) string {
		value, err := hex.DecodeString(strings.TrimPrefix(lines[7], "7 = "))
		if err != nil {
			t.Fatal(err)
		}
		return file(name, good(seal.Sign(&seal.Policy{Name: "api", Version: version, PCRs: []attest.PCR{{Index: 7, Value: [32]byte(value)}}}, key)))
	}
	first, second := approve("first", 1), approve("second", 2)
	secret := bytes.Repeat([]byte("secret "), 1000)
	sealed := good(run(secret, "seal", "--policy-key", public, "--policy", first))
	if got := good(run(sealed, "unseal", "--policy", first)); !bytes.Equal(got, secret) {
		t.Errorf("%d bytes came back", len(got))
	}
	renewed := good(run(sealed, "reseal", "--policy", second, "--policy", first))
	if got := good(run(renewed, "unseal", "--policy", first, "--policy", second)); !bytes.Equal(got, secret) {
		t.Errorf("%d bytes came back", len(got))
	}
	if _, err := run(renewed, "unseal", "--policy", first); !errors.Is(err, seal.ErrVersion) {
		t.Errorf("an older policy: %v", err)
	}
	for name, args := range map[string][]string{
		"no policy": {"seal", "--policy-key", public}, "no key": {"seal", "--policy", first}, "unknown": {"open"}, "a key that is none": {"seal", "--policy-key", first, "--policy", first},
	} {
		if _, err := run(secret, args...); err == nil {
			t.Errorf("%s: done", name)
		}
	}
}
