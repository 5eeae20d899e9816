package tpm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
)

// configured writes tpm.conf and reads it.
func configured(t testing.TB, dir, text string) (Configuration, error) {
	t.Helper()
	path := filepath.Join(dir, ConfigurationFile)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadConfiguration(path)
}

// toolsKey makes a signing key as docs/tpm.md says, with the given attributes.
func toolsKey(t testing.TB, tpm *tpmtest.TPM, dir, attributes string) {
	t.Helper()
	tpm.Tool(t, dir, "tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "primary.ctx")
	tpm.Tool(t, dir, "tpm2_create", "-C", "primary.ctx", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes, "-u", "key.pub", "-r", "key.priv")
	tpm.Tool(t, dir, "tpm2_flushcontext", "-t")
	tpm.Tool(t, dir, "tpm2_load", "-C", "primary.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
	tpm.Tool(t, dir, "tpm2_flushcontext", "-t")
}

const goodAttributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"

func TestToolsKey(t *testing.T) {
	tpm := plain(t)
	dir := t.TempDir()
	toolsKey(t, tpm, dir, goodAttributes)
	c, err := configured(t, dir, "# of tpm2-tools\nkey_context = key.ctx\npcrs = 7, 0\n")
	if err != nil {
		t.Fatal(err)
	}
	first := open(t, device(t, tpm), t.TempDir(), c)
	mustSign(t, first)
	first.Close()

	tpm.Tool(t, dir, "tpm2_evictcontrol", "-C", "o", "-c", "key.ctx", "0x81010010")
	c, err = configured(t, dir, "key_handle = 0x81010010\n")
	if err != nil {
		t.Fatal(err)
	}
	second := open(t, device(t, tpm), t.TempDir(), c)
	mustSign(t, second)
	if !first.Public().Equal(second.Public()) {
		t.Error("context and persistent handle are of different keys")
	}
	second.Close()

	tpm.Reset(t)
	c, err = configured(t, dir, "key_context = key.ctx\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(t.Context(), Options{TPM: device(t, tpm), State: t.TempDir(), Configuration: c}); err == nil || !strings.Contains(err.Error(), "tpm2_load again") {
		t.Errorf("context from before a reset: error %v", err)
	}
}

// A key that could leave the TPM, or is not for this, is refused.
func TestToolsKeyAttributes(t *testing.T) {
	for attributes, want := range map[string]string{
		"sensitivedataorigin|userwithauth|noda|sign":                 "fixedTPM is not set",
		"fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign": "noDA is not set",
		goodAttributes + "|restricted":                               "restricted is set",
	} {
		tpm := plain(t)
		dir := t.TempDir()
		toolsKey(t, tpm, dir, attributes)
		c, err := configured(t, dir, "key_context = key.ctx\n")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(t.Context(), Options{TPM: device(t, tpm), State: t.TempDir(), Configuration: c}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", attributes, err, want)
		}
	}
}

func TestConfiguration(t *testing.T) {
	dir := t.TempDir()
	if c, err := ReadConfiguration(filepath.Join(dir, "missing")); err != nil || c.KeyContext != nil {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("no context"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"key_handle = 0x81010010\nkey_handle": ":2: expected `name = value`",
		"key_handle = 0x80000001":             "expected a persistent handle",
		"key_handle = 0x81800001":             "expected a persistent handle",
		"key_context = text":                  "not a context file",
		"key_context = nothing":               "no such file",
		"pcrs = 24":                           "numbers of 0 to 23",
		"pcrs =":                              "numbers of 0 to 23",
		"pcrs = 1,,2":                         "numbers of 0 to 23",
		"tier = nitro":                        "unknown name",
	} {
		if _, err := configured(t, dir, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
	c, err := configured(t, dir, "pcrs = 11, 7,7 ,0 # comment\n\nkey_handle=0x81010010")
	if err != nil || len(c.PCRs) != 3 || c.PCRs[0] != 0 || c.PCRs[2] != 11 || c.KeyHandle != 0x81010010 {
		t.Errorf("%+v, %v", c, err)
	}
}

// FuzzContext: whatever the file holds, there is a context or an error.
func FuzzContext(f *testing.F) {
	good := binary.BigEndian.AppendUint32(nil, contextMagic)
	good = append(good, 0, 0, 0, 1, 0x40, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 3, 1, 2, 3)
	f.Add(good)
	f.Add(good[:20])
	f.Add(append(good[:24:24], 0, 8, 0, 0, 0, 0, 0, 2, 7, 7))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := parseContext(file)
		if err == nil && len(c.ContextBlob.Buffer) == 0 {
			t.Error("a context without a blob")
		}
	})
}
