package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/attest"
	goldens "github.com/raypher/raypher/attest/golden"
	attesttpm "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/tpm"
)

// attestRun runs `raypher attest`.
func attestRun(args ...string) (string, error) {
	c := attestCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	var text bytes.Buffer
	c.SetOut(&text)
	c.SetArgs(args)
	err := c.Execute()
	return text.String(), err
}

// The whole way on the command line, with a TPM: identity, challenge, answer, record, then evidence that carries the record.
func TestAttestTPM(t *testing.T) {
	ca := tpmtest.NewCA(t)
	machine := tpmtest.Start(t, ca.Make(t))
	dir, state := t.TempDir(), t.TempDir()
	file := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open := func() *tpm.Device {
		t.Helper()
		d, err := tpm.OpenDevice(machine.Socket)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	private, public := activatorKey(t)
	key, activator := file("key.pem", private), file("activator.pem", public)

	id, err := tpm.Identify(t.Context(), open(), tpm.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "c")
	if _, err := attestRun("challenge", file("identity", id.Encode()), "--root", ca.Roots, "--out", out); err != nil {
		t.Fatal(err)
	}
	sent, err := os.ReadFile(out + ".challenge")
	if err != nil {
		t.Fatal(err)
	}
	m, err := attesttpm.ParseMessage(sent)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := tpm.AnswerChallenge(t.Context(), open(), tpm.Configuration{}, m)
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(state, tpm.ActivationFile)
	if _, err := attestRun("record", file("answer", answer), "--secret", out+".secret", "--key", key, "--out", file("taken", nil)); err == nil {
		t.Error("a record was written over a file")
	}
	if _, err := attestRun("record", file("answer", answer), "--secret", out+".secret", "--key", key, "--out", record); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(out + ".secret"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the secret is still there")
	}

	k, _, err := tpm.Open(t.Context(), tpm.Options{TPM: open(), State: state})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	nonce := []byte("a nonce of mine")
	e, err := k.Evidence(t.Context(), nonce, signer.Binding{})
	if err != nil {
		t.Fatal(err)
	}
	name, err := id.AKName()
	if err != nil {
		t.Fatal(err)
	}
	_, stranger := activatorKey(t)
	zero := hex.EncodeToString(make([]byte, 32))
	goldenKey, goldenPublic := operatorKey(t, dir, "golden")
	golden := func(name, value string) string {
		t.Helper()
		source := file(name+".yaml", []byte("version: 1\nnot_after: 2049-01-01T00:00:00Z\nsets:\n  - {name: rack, tier: tpm, bank: sha256, pcrs: {PCR0: \""+zero+"\", PCR7: \""+value+"\"}}\n"))
		if _, err := attestRun("golden", "sign", source, "--key", goldenKey); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name+".golden")
	}
	base := []string{"verify", "--tpm", file("bundle", e.Document), "--root", ca.Roots, "--nonce", hex.EncodeToString(nonce), "--json"}
	with := func(args ...string) []string { return append(slices.Clone(base), args...) }
	for _, c := range []struct {
		name string
		args []string
		want attest.Check // empty: accepted; mistaken: an error that is no refusal
	}{
		{"by the record", with("--activator", activator), ""},
		{"by the verifier's own activation", with("--activated", hex.EncodeToString(name)), ""},
		{"golden PCRs", with("--activator", activator, "--golden", golden("good", zero), "--golden-key", goldenPublic), ""},
		{"golden PCRs without a signature", with("--activator", activator, "--golden", filepath.Join(dir, "good.yaml"), "--golden-unsigned"), ""},
		{"other PCRs", with("--activator", activator, "--golden", golden("other", "01"+zero[2:]), "--golden-key", goldenPublic), attesttpm.CheckGolden},
		{"golden PCRs by a stranger", with("--activator", activator, "--golden", filepath.Join(dir, "good.golden"), "--golden-key", file("stranger2.pem", stranger)), goldens.CheckSignature},
		{"golden PCRs without a signature, and a key", with("--activator", activator, "--golden", filepath.Join(dir, "good.yaml"), "--golden-key", goldenPublic), goldens.CheckSignature},
		{"golden PCRs, and nobody who may sign them", with("--activator", activator, "--golden", filepath.Join(dir, "good.golden")), mistaken},
		{"a golden key alone", with("--activator", activator, "--golden-key", goldenPublic), mistaken},
		{"an empty golden file's name", with("--activator", activator, "--golden", "", "--golden-key", goldenPublic), mistaken},
		{"a stranger's record", with("--activator", file("stranger.pem", stranger)), attesttpm.CheckActivation},
		{"another nonce", with("--activator", activator, "--nonce", "00112233445566778899"), attesttpm.CheckNonce},
		{"a log that explains nothing", with("--activator", activator, "--event-log", file("log", []byte("no log"))), attesttpm.CheckEventLog},
		{"years later", with("--activator", activator, "--at", "2050-01-01T00:00:00Z"), attesttpm.CheckFreshness},
		{"nobody has activated it", base, mistaken},
		{"both documents", with("--nitro", "x"), mistaken},
		{"PCRs as for Nitro", with("--activator", activator, "--pcr", "0="+zero), mistaken},
		{"nonce and none", with("--activator", activator, "--without-nonce"), mistaken},
	} {
		out, err := attestRun(c.args...)
		var refusal *attest.Refusal
		switch {
		case c.want == "":
			var v tpmView
			if err != nil || json.Unmarshal([]byte(out), &v) != nil || v.Tier != "tpm" || len(v.PCRs) != 8 || v.Nonce != hex.EncodeToString(nonce) {
				t.Errorf("%s: %s, error %v", c.name, out, err)
			}
		case err == nil || out != "":
			t.Errorf("%s: accepted: %s", c.name, out)
		case c.want == mistaken:
			if errors.As(err, &refusal) {
				t.Errorf("%s: error %v, want one about the flags", c.name, err)
			}
		case !errors.As(err, &refusal) || refusal.Check != c.want:
			t.Errorf("%s: error %v, want check %q", c.name, err, c.want)
		}
	}

	// In words, of whose TPM: a record says it, the AK's name does not.
	words := slices.Clone(base[:len(base)-1])
	for _, c := range []struct{ flag, value, want string }{
		{"--activator", activator, " swtpm, EK "}, {"--activated", hex.EncodeToString(name), "\nTPM         not known: "},
	} {
		if out, err := attestRun(append(words, c.flag, c.value)...); err != nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %s, error %v, want %q", c.flag, out, err, c.want)
		}
	}
}

// operatorKey makes a key pair with the command line and returns its files.
func operatorKey(t *testing.T, dir, name string) (private, public string) {
	t.Helper()
	private = filepath.Join(dir, name+".key")
	mustCall(t, ceilingCommand(), "keygen", private)
	return private, private + ".pub"
}

// activatorKey is a key pair in PEM.
func activatorKey(t *testing.T) (private, public []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
}
