package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/nitro/nitrotest"
	attesttpm "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/tpm"
)

// The contract of `attest verify` for programs that call it, by the real program: exit 0 and one JSON object, or exit 1, one line on
// standard error that names the check, and nothing on standard output.
func TestAttestVerifyContract(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "raypher")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build raypher: %v\n%s", err, out)
	}
	file := func(name string, content []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	pki := nitrotest.New(t, time.Now().Add(-time.Minute))
	document := pki.Draft(pki.Leaf(t)).Seal(t)
	onNitro := []string{"--nitro", file("doc", document), "--root", file("root.pem", pki.RootPEM()), "--nonce", hex.EncodeToString([]byte("nonce"))}

	ca := tpmtest.NewCA(t)
	k, _, err := tpm.Open(t.Context(), tpm.Options{TPM: must1(tpm.OpenDevice(tpmtest.Start(t, ca.Make(t)).Socket))(t), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	bundle := must1(k.Evidence(t.Context(), chainNonce, signer.Binding{}))(t).Document
	without := must1(k.Evidence(t.Context(), nil, signer.Binding{}))(t).Document
	akName := hex.EncodeToString(must1(attesttpm.Claimed(bundle))(t).AKName)
	onTPM := []string{"--tpm", file("bundle", bundle), "--root", ca.Roots, "--nonce", hex.EncodeToString(chainNonce), "--activated", akName}
	zero := strings.Repeat("00", 32)
	golden := file("golden.yaml", []byte("version: 1\nnot_after: \"2020-01-01T00:00:00Z\"\nsets:\n  - {name: a, tier: tpm, bank: sha256, pcrs: {PCR0: \""+zero+"\"}}\n"))

	_, public := operatorKey(t, dir, "golden")
	mistakes := file("mistakes.yaml", []byte("version: x\nnot_after: soon\nsets: []\n"))

	with := func(base []string, args ...string) []string { return append(slices.Clone(base), args...) }
	for _, c := range []struct {
		name  string
		args  []string
		check string // that the line names; empty: accepted
	}{
		{"nitro", onNitro, ""},
		{"nitro, another nonce", with(onNitro, "--nonce", "00"), "nonce"},
		{"nitro, a day later", with(onNitro, "--at", time.Now().Add(24*time.Hour).Format(time.RFC3339)), "validity"},
		{"nitro, the AWS root", []string{"--nitro", onNitro[1]}, "root"},
		{"nitro, cut off", with(onNitro, "--nitro", file("short", document[:len(document)-1])), "encoding"},
		{"nitro, too large", with(onNitro, "--nitro", file("large", make([]byte, 1<<20))), "size"},
		{"nitro, a bundle of a TPM", with(onNitro, "--nitro", onTPM[1]), "encoding"},
		{"nitro, a name that commands a terminal", with(onNitro, "--nitro", file("esc", []byte("\x84\x1b[31m\n"))), "encoding"},

		{"tpm", onTPM, ""},
		{"tpm, of a journal", with([]string{"--tpm", file("without", without), "--without-nonce"}, append(slices.Clone(onTPM[2:4]), onTPM[6:]...)...), ""},
		{"tpm, another nonce", with(onTPM, "--nonce", "0011223344556677"), "nonce"},
		{"tpm, no nonce in it", with(onTPM, "--tpm", filepath.Join(dir, "without")), "nonce"},
		{"tpm, an hour later", with(onTPM, "--at", time.Now().Add(time.Hour).Format(time.RFC3339)), "freshness"},
		{"tpm, nobody has activated it", append(slices.Clone(onTPM[:6]), "--activated", strings.Repeat("00", attesttpm.AKNameSize)), "activation"},
		{"tpm, cut off", with(onTPM, "--tpm", file("cut", bundle[:len(bundle)-1])), "format"},
		{"tpm, too large", with(onTPM, "--tpm", filepath.Join(dir, "large")), "format"},
		{"tpm, a document of Nitro", with(onTPM, "--tpm", onNitro[1]), "format"},
		{"tpm, golden values that have expired", with(onTPM, "--golden", golden, "--golden-unsigned"), "golden validity"},
		{"tpm, golden values that nobody has signed", with(onTPM, "--golden", golden, "--golden-key", public), "golden signature"},
		{"nitro, golden values that nobody has signed", with(onNitro, "--golden", golden, "--golden-key", public), "golden signature"},

		{"golden values with several mistakes", with(onTPM, "--golden", mistakes, "--golden-unsigned"), "golden measurements are malformed"},
		{"nitro, held to an event log", with(onNitro, "--event-log", golden), "--event-log"},
		{"nitro, held to an activation", with(onNitro, "--activator", public), "--activator"},
		{"tpm, held to a PCR of Nitro", with(onTPM, "--pcr", "0=00"), "--pcr"},
		{"a flag that does not exist", with(onTPM, "--gold", golden), "unknown flag"},
		{"an age that is no duration", with(onTPM, "--max-age", "soon"), "invalid argument"},
		{"an argument too many", with(onTPM, "bundle"), "unknown command"},
		{"nothing", nil, "name the document"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := exec.Command(binary, append([]string{"attest", "verify", "--json"}, c.args...)...)
			var out, errs bytes.Buffer
			command.Stdout, command.Stderr = &out, &errs
			err := command.Run()
			if c.check == "" {
				var object map[string]any
				if err != nil || json.Unmarshal(out.Bytes(), &object) != nil || object["tier"] != strings.Split(c.name, ",")[0] || errs.Len() > 0 {
					t.Errorf("%v, %s on standard output, %q on standard error", err, &out, &errs)
				}
				return
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || out.Len() > 0 || strings.Count(errs.String(), "\n") != 1 || !strings.HasPrefix(errs.String(), "raypher: attest verify: "+c.check) {
				t.Errorf("%v, %q on standard output, %q on standard error, want check %q", err, &out, &errs, c.check)
			}
		})
	}
}
