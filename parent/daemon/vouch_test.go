package daemon

import (
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/journal"
)

// What the flags about an enclave's measurements name is read, or said to be wrong before anything is connected to.
func TestVouchFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	public := func(name string, key ed25519.PrivateKey) string {
		der, err := ceiling.PublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return file(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	_, key, _ := ed25519.GenerateKey(nil)   // never fails
	_, other, _ := ed25519.GenerateKey(nil) // never fails
	now := time.Now().Truncate(time.Second)
	list, err := golden.Sign(&golden.List{Version: 1, NotBefore: now, NotAfter: now.Add(time.Hour), Sets: []*golden.Set{{
		Name: "one", Tier: journal.TierNitro, NotBefore: now, NotAfter: now.Add(time.Hour), PCRs: []golden.Register{{Index: 0, Values: [][]byte{make([]byte, 48)}}},
	}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	value := `"` + strings.Repeat("0a", 48) + `"`
	plain := file("plain.json", []byte(`{"PCR0":`+value+`,"PCR1":`+value+`,"PCR2":`+value+`}`))
	signed, mine, others := file("signed", list), public("mine.pem", key), public("others.pem", other)
	root := file("root.pem", nitrotest.New(t, now).RootPEM())
	for _, c := range []struct {
		name    string
		options Options
		want    string // the error; empty: none
	}{
		{"nothing", Options{}, ""},
		{"registers", Options{Measurements: plain}, ""},
		{"a root", Options{NitroRoot: root, Measurements: plain}, ""},
		{"a signed list", Options{Measurements: signed, MeasurementKeys: []string{others, mine}}, ""},
		{"a signed list, and nobody to trust", Options{Measurements: signed}, "--enclave-measurements-key"},
		{"a list that somebody else has signed", Options{Measurements: signed, MeasurementKeys: []string{others}}, "golden signature"},
		{"a key that is none", Options{Measurements: signed, MeasurementKeys: []string{plain}}, "no PEM block"},
		{"no file", Options{Measurements: filepath.Join(dir, "none")}, "no such file"},
		{"a folder", Options{Measurements: dir}, "not a regular file"},
		{"something else", Options{Measurements: root}, "raypher eif measure --json"},
		{"a root that is none", Options{NitroRoot: plain}, "--nitro-root"},
		{"no root", Options{NitroRoot: filepath.Join(dir, "none")}, "--nitro-root"},
	} {
		v, roots, err := c.options.vouch()
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil || (len(v.PCRs) == 3) != (c.options.Measurements == plain) || (v.Golden != nil) != (c.options.Measurements == signed) || len(roots) != len(v.Roots) || (len(roots) == 1) != (c.options.NitroRoot == root) {
			t.Errorf("%s: %+v, %d roots, %v", c.name, v, len(roots), err)
		}
	}
}
