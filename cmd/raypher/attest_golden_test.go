package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
)

// From a verified document to a signed list, and back: what it allows is accepted, and what it does not is named.
func TestGoldenNitro(t *testing.T) {
	at := time.Now().Add(-time.Minute).Truncate(time.Second)
	pki := nitrotest.New(t, at)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	document := file("doc", pki.Draft(pki.Leaf(t)).Seal(t))
	draft := pki.Draft(pki.Leaf(t))
	draft.Set("pcrs", map[int][]byte{0: nitrotest.PCR("next image"), 1: nitrotest.PCR("kernel"), 2: nitrotest.PCR("application"), 4: nitrotest.PCR(nitrotest.InstanceID)})
	next := file("next", draft.Seal(t))
	root := file("root.pem", pki.RootPEM())
	key, public := operatorKey(t, dir, "golden")
	source, signed, state := filepath.Join(dir, "g.yaml"), filepath.Join(dir, "g.golden"), filepath.Join(dir, "state")

	if _, err := attestRun("golden", "add", source, "--name", "release 1", "--from", document); err == nil || !strings.Contains(err.Error(), "root: ") {
		t.Errorf("evidence under another root: %v", err)
	}
	out, err := attestRun("golden", "add", source, "--name", "release 1", "--set-version", "1.0.0", "--from", document, "--root", root)
	if err != nil || !strings.Contains(out, "version 1, set \"release 1\" with 4 PCRs of tier nitro") {
		t.Fatalf("%q, %v", out, err)
	}
	sign := func() error {
		_, err := attestRun("golden", "sign", source, "--key", key)
		return err
	}
	if err := sign(); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(document string, args ...string) (string, error) {
		return attestRun(append([]string{"verify", "--nitro", document, "--root", root, "--json", "--golden", signed, "--golden-key", public}, args...)...)
	}
	if out, err := verify(document, "--golden-state", state); err != nil || !strings.Contains(out, `"golden_set": "release 1"`) {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := verify(next); !errors.Is(err, golden.CheckValues) || out != "" {
		t.Errorf("another image: %q, %v", out, err)
	}

	if _, err := attestRun("golden", "add", source, "--name", "release 2", "--from", next, "--root", root, "--pcrs", "0,1,2"); err != nil {
		t.Fatal(err)
	}
	if err := sign(); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(next, "--golden-state", state); err != nil || !strings.Contains(out, `"golden_set": "release 2"`) {
		t.Errorf("%s, %v", out, err)
	}
	old := file("old.golden", first)
	if _, err := verify(document, "--golden", old, "--golden-state", state); !errors.Is(err, golden.CheckVersion) {
		t.Errorf("the older list after the newer one: %v", err)
	}
	if _, err := verify(document, "--golden", old); err != nil {
		t.Errorf("the older list where no newer one is known: %v", err)
	}
	if err := os.WriteFile(source, bytes.Replace(must1(os.ReadFile(source))(t), []byte("version: 2"), []byte("version: 1"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sign(); !errors.Is(err, golden.CheckVersion) {
		t.Errorf("signed over a newer one: %v", err)
	}

	if out, err := attestRun("golden", "check", next, "--golden", signed, "--golden-key", public); err != nil || !strings.Contains(out, `matches set "release 2"`) {
		t.Errorf("%q, %v", out, err)
	}
	wanted := hex.EncodeToString(nitrotest.PCR("image"))
	if out, err := attestRun("golden", "check", next, "--golden", old, "--golden-key", public); !errors.Is(err, golden.CheckValues) || !strings.Contains(out, "PCR 0 is ") || !strings.Contains(out, "allowed: "+wanted) {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := attestRun("golden", "check", next, "--golden", signed, "--golden-key", public, "--at", "2049-01-01T00:00:00Z"); !errors.Is(err, golden.CheckValidity) {
		t.Errorf("%q, %v", out, err)
	}
	for args, want := range map[string]string{
		signed:                             "the signature was not verified",
		signed + " --golden-key " + public: "signed by a trusted key",
		source:                             "not signed",
		signed + " --golden-key " + root:   "--golden-key",
		filepath.Join(dir, "doc"):          "golden",
		filepath.Join(dir, "is not there"): "no such file",
	} {
		out, err := attestRun(append([]string{"golden", "list"}, strings.Fields(strings.ReplaceAll(args, "is not there", "missing"))...)...)
		if err != nil {
			out = err.Error()
		}
		if !strings.Contains(out, want) {
			t.Errorf("list %s: %q, %v, want %q", args, out, err, want)
		}
	}
}

// The local TPM's values need no evidence, and a file's mistakes stop everything.
func TestGoldenLocalTPM(t *testing.T) {
	machine := tpmtest.Start(t, t.TempDir())
	dir := t.TempDir()
	source := filepath.Join(dir, "g.yaml")
	if out, err := attestRun("golden", "add", source, "--name", "here", "--tpm-device", machine.Socket, "--pcrs", "0,7,23"); err != nil || !strings.Contains(out, "3 PCRs of tier tpm") {
		t.Fatalf("%q, %v", out, err)
	}
	before := must1(os.ReadFile(source))(t)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"the name again":   {[]string{"--name", "here", "--tpm-device", machine.Socket}, "there is one with this name"},
		"no name":          {[]string{"--tpm-device", machine.Socket}, "--name"},
		"both sources":     {[]string{"--name", "x", "--tpm-device", machine.Socket, "--from", source}, "one of --from"},
		"PCR 24":           {[]string{"--name", "x", "--tpm-device", machine.Socket, "--pcrs", "24"}, "PCR"},
		"no evidence":      {[]string{"--name", "x", "--from", source, "--root", dir}, "--root"},
		"a time":           {[]string{"--name", "x", "--tpm-device", machine.Socket, "--not-after", "soon"}, "--not-after"},
		"a missing device": {[]string{"--name", "x", "--tpm-device", filepath.Join(dir, "none")}, "no such file"},
	} {
		if out, err := attestRun(append([]string{"golden", "add", source}, c.args...)...); err == nil || out != "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v, want %q", name, out, err, c.want)
		}
		if after := must1(os.ReadFile(source))(t); !bytes.Equal(before, after) {
			t.Fatalf("%s: the file was changed", name)
		}
	}
	if err := os.WriteFile(source, []byte("version: x\nsets: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := attestRun("golden", "sign", source, "--key", source)
	for _, want := range []string{source + ":1:10: ", source + ":2:7: 0 sets", "the list has no end"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	var refusal *attest.Refusal
	if errors.As(err, &refusal) {
		t.Errorf("a bad file is no refusal: %v", err)
	}
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
