package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
)

// verifyAttestation runs the command; out is its standard output.
func verifyAttestation(in []byte, args ...string) (out string, err error) {
	c := attestCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	var text bytes.Buffer
	c.SetOut(&text)
	c.SetIn(bytes.NewReader(in))
	c.SetArgs(append([]string{"verify"}, args...))
	err = c.Execute()
	return text.String(), err
}

func TestAttestVerifyNitro(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	pki := nitrotest.New(t, at)
	leaf := pki.Leaf(t)
	folder := t.TempDir()
	file := func(name string, content []byte) string {
		t.Helper()
		name = filepath.Join(folder, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	document := file("doc", pki.Draft(leaf).Seal(t))
	root := file("root.pem", pki.RootPEM())
	zeros := make([]byte, nitro.PCRSize)
	draft := pki.Draft(leaf)
	draft.Set("pcrs", map[int][]byte{0: zeros, 1: zeros, 2: zeros, 4: nitrotest.PCR(nitrotest.InstanceID)})
	debug := file("debug", draft.Seal(t))
	large := file("large", make([]byte, nitro.MaxDocumentSize+100))
	ofRoot := file("root.crl", pki.RevocationList(t, 0, nil).Raw)
	ofRegion := file("region.crl", pki.RevocationList(t, 1, nil).Raw)
	revoked := file("revoked.crl", pki.RevocationList(t, 1, nil, pki.Chain[2].Certificate).Raw)
	noList := file("no.crl", []byte("list"))

	good := []string{"--nitro", document, "--root", root, "--at", at.Format(time.RFC3339), "--json"}
	with := func(args ...string) []string { return append(slices.Clone(good), args...) }
	pcr0 := hex.EncodeToString(nitrotest.PCR("image"))
	for _, c := range []struct {
		name string
		args []string
		want attest.Check // empty: accepted; mistaken: an error that is no refusal
	}{
		{"as made", good, ""},
		{"a wanted nonce", with("--nonce", hex.EncodeToString([]byte("nonce"))), ""},
		{"wanted PCRs", with("--pcr", "0="+pcr0, "--pcr", "4="+hex.EncodeToString(nitrotest.PCR(nitrotest.InstanceID))), ""},
		{"PCRs in capitals", with("--pcr", "0="+strings.ToUpper(pcr0)), ""},
		{"debug allowed", with("--nitro", debug, "--allow-debug"), ""},
		{"an hour later, allowed", with("--at", "2026-11-01T13:00:00Z", "--max-age", "61m"), ""},
		{"another zone's time", with("--at", "2026-11-01T13:01:00+01:00"), ""},
		{"lists", with("--crl", ofRoot, "--crl", ofRegion), ""},

		{"the AWS root", []string{"--nitro", document, "--at", at.Format(time.RFC3339), "--json"}, nitro.CheckRoot},
		{"now", []string{"--nitro", document, "--root", root, "--json"}, nitro.CheckValidity},
		{"a second after the leaf", with("--at", "2026-11-01T13:30:01Z", "--max-age", "24h"), nitro.CheckValidity},
		{"six minutes later", with("--at", "2026-11-01T12:06:00Z"), nitro.CheckFreshness},
		{"another nonce", with("--nonce", "00"), nitro.CheckNonce},
		{"another PCR", with("--pcr", "0="+hex.EncodeToString(zeros)), nitro.CheckPCR},
		{"debug", with("--nitro", debug), nitro.CheckDebug},
		{"too large", with("--nitro", large), nitro.CheckSize},
		{"not a document", with("--nitro", root), nitro.CheckEncoding},
		{"revoked", with("--crl", ofRoot, "--crl", revoked), nitro.CheckRevocation},
		{"a list missing", with("--crl", ofRoot), nitro.CheckRevocation},

		{"no document", []string{"--json"}, mistaken},
		{"a document that is not there", with("--nitro", folder+"/none"), mistaken},
		{"an empty nonce", with("--nonce", ""), mistaken},
		{"a nonce that is not hexadecimal", with("--nonce", "xy"), mistaken},
		{"an empty time", with("--at", ""), mistaken},
		{"a time of another form", with("--at", "yesterday"), mistaken},
		{"the zero time", with("--at", "0001-01-01T00:00:00Z"), mistaken},
		{"no age", with("--max-age", "0"), mistaken},
		{"a negative age", with("--max-age", "-5m"), mistaken},
		{"an empty PCR", with("--pcr", "0="), mistaken},
		{"a PCR without a value", with("--pcr", "0"), mistaken},
		{"PCR32", with("--pcr", "32="+pcr0), mistaken},
		{"a negative PCR", with("--pcr", "-1="+pcr0), mistaken},
		{"a PCR twice", with("--pcr", "0="+pcr0, "--pcr", "00="+pcr0), mistaken},
		{"a root that is not there", with("--root", folder+"/none"), mistaken},
		{"a root that is no certificate", with("--root", document), mistaken},
		{"a list that is none", with("--crl", noList), mistaken},
		{"an argument", with("more"), mistaken},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := verifyAttestation(nil, c.args...)
			if c.want == "" {
				if err != nil || !json.Valid([]byte(out)) {
					t.Errorf("got %q, %v", out, err)
				}
				return
			}
			var refusal *attest.Refusal
			if err == nil || out != "" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %q on standard output, %v", out, err)
			}
			if c.want == mistaken && errors.As(err, &refusal) || c.want != mistaken && !strings.HasPrefix(err.Error(), "attest verify: "+string(c.want)+": ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

const mistaken attest.Check = "usage"

func TestAttestVerifyNitroOutput(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 123e6, time.UTC)
	pki := nitrotest.New(t, at)
	draft := pki.Draft(pki.Leaf(t))
	draft.Set("timestamp", at.UnixMilli())
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, pki.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--nitro", "-", "--root", root, "--at", "2026-11-01T12:00:00Z"}
	out, err := verifyAttestation(draft.Seal(t), append(args, "--json")...)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	pcrs, _ := got["pcrs"].(map[string]any)
	if pcrs["0"] != hex.EncodeToString(nitrotest.PCR("image")) || len(pcrs) != 16 {
		t.Errorf("pcrs: %v", pcrs)
	}
	delete(got, "pcrs")
	if want := map[string]any{
		"tier": "nitro", "module_id": nitrotest.ModuleID, "timestamp": "2026-11-01T12:00:00.123Z", "debug": false,
		"public_key": hex.EncodeToString([]byte("public key")), "user_data": nil, "nonce": hex.EncodeToString([]byte("nonce")),
	}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	out, err = verifyAttestation(draft.Seal(t), args...)
	if err != nil || !strings.Contains(out, "module      "+nitrotest.ModuleID+"\n") || strings.Contains(out, "debug") {
		t.Errorf("got %q, %v", out, err)
	}
}
