package manifest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testKey is the same key in every run, so that messages and vectors are too.
func testKey(name string) (ed25519.PrivateKey, Signer) {
	seed := sha256.Sum256([]byte(name))
	key := ed25519.NewKeyFromSeed(seed[:])
	return key, Signer{Name: name, Key: key.Public().(ed25519.PublicKey)}
}

func signed(t *testing.T) (*Manifest, Signers) {
	t.Helper()
	m := parse(t, example)
	key, acme := testKey("acme")
	if err := m.Sign(key, "acme"); err != nil {
		t.Fatal(err)
	}
	_, bob := testKey("bob")
	return m, Signers{acme, bob}
}

func TestVerify(t *testing.T) {
	m, signers := signed(t)
	if err := m.Verify(signers); err != nil {
		t.Fatal(err)
	}
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := parse(t, string(text)).Verify(signers); err != nil {
		t.Errorf("after writing and reading: %v", err)
	}
	key, acme := testKey("acme")
	if err := m.Sign(key, acme.KeyID()); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(signers); err != nil {
		t.Errorf("signed_by a key id: %v", err)
	}
	m.Signature.Covers = nil
	message, _ := m.message()
	m.Signature.Value = base64.StdEncoding.EncodeToString(ed25519.Sign(key, message))
	if err := m.Verify(signers); err != nil {
		t.Errorf("covers is optional: %v", err)
	}
}

// Every field altered after signing is refused, and the refusal names it.
func TestAlteredIsRefusedAndNamed(t *testing.T) {
	other, _ := testKey("bob")
	tests := []struct {
		name  string
		alter func(m *Manifest)
		want  error
		says  []string
	}{
		{"skill_id", func(m *Manifest) { m.SkillID = "acme/other" }, ErrAltered, []string{`skill_id was changed to "acme/other"`}},
		{"version", func(m *Manifest) { m.Version = "9" }, ErrAltered, []string{`version was changed to "9"`}},
		{"read changed", func(m *Manifest) { m.Asks.Filesystem.Read[1] = "/etc/**" }, ErrAltered, []string{`permissions.filesystem.read: "/etc/**" was not there`, "1 signed entry is missing"}},
		{"write added", func(m *Manifest) { m.Asks.Filesystem.Write = append(m.Asks.Filesystem.Write, "/**") }, ErrAltered, []string{`permissions.filesystem.write: "/**" was not there`}},
		{"write removed", func(m *Manifest) { m.Asks.Filesystem.Write = nil }, ErrAltered, []string{`"permissions.filesystem.write" was removed`}},
		{"filesystem removed", func(m *Manifest) { m.Asks.Filesystem = nil }, ErrAltered, []string{`"permissions.filesystem" was removed`}},
		{"egress added", func(m *Manifest) { m.Asks.Network.Egress = append(m.Asks.Network.Egress, "evil.example") }, ErrAltered, []string{`permissions.network.egress: "evil.example" was not there`}},
		{"egress twice", func(m *Manifest) {
			m.Asks.Network.Egress = append(m.Asks.Network.Egress, m.Asks.Network.Egress[0])
		}, ErrAltered, []string{`permissions.network.egress: "api.weather.example:443" was not there`}},
		{"egress in another order", func(m *Manifest) {
			e := m.Asks.Network.Egress
			e[0], e[1] = e[1], e[0]
		}, ErrAltered, []string{"permissions.network.egress: the order was changed"}},
		{"network removed", func(m *Manifest) { m.Asks.Network = nil }, ErrAltered, []string{`"permissions.network" was removed`}},
		{"exec removed", func(m *Manifest) { m.Asks.Exec = m.Asks.Exec[:1] }, ErrAltered, []string{"permissions.exec: 1 signed entry is missing"}},
		{"exec empty", func(m *Manifest) { m.Asks.Exec = []string{} }, ErrAltered, []string{"permissions.exec: 2 signed entries are missing"}},
		{"hash changed", func(m *Manifest) { m.Hashes["bin/fetch.py"] = m.Hashes["SKILL.md"] }, ErrAltered, []string{`hashes: the entry of "bin/fetch.py" is new or changed`}},
		{"hash added", func(m *Manifest) { m.Hashes["bin/evil.py"] = m.Hashes["SKILL.md"] }, ErrAltered, []string{`hashes: the entry of "bin/evil.py" is new or changed`}},
		{"hash removed", func(m *Manifest) { delete(m.Hashes, "SKILL.md") }, ErrAltered, []string{"hashes: 1 signed entry is missing"}},
		{"hashes removed", func(m *Manifest) { m.Hashes = nil }, ErrAltered, []string{`"hashes" was removed`}},
		{"algorithm", func(m *Manifest) { m.Signature.Algorithm = "none" }, ErrUnsupported, []string{`signature.algorithm is "none"`}},
		{"algorithm in lower case", func(m *Manifest) { m.Signature.Algorithm = "ed25519" }, ErrUnsupported, []string{`signature.algorithm is "ed25519"`}},
		{"signed_by a stranger", func(m *Manifest) { m.Signature.SignedBy = "mallory" }, ErrUntrusted, []string{`signature.signed_by is "mallory"`, "trusted are acme, bob"}},
		{"signed_by another", func(m *Manifest) { m.Signature.SignedBy = "bob" }, ErrAltered, []string{`signature.signed_by is "bob", but the signature is by acme`}},
		{"covers", func(m *Manifest) { m.Signature.Covers["version"] = []string{"0000000000000000"} }, ErrAltered, []string{"signature.covers was changed"}},
		{"covers removed", func(m *Manifest) { m.Signature.Covers = nil }, ErrAltered, []string{"signature.covers was changed"}},
		{"value of another key", func(m *Manifest) {
			message, _ := m.message()
			m.Signature.Value = base64.StdEncoding.EncodeToString(ed25519.Sign(other, message))
		}, ErrAltered, []string{`signature.signed_by is "acme", but the signature is by bob`}},
		{"value of a stranger's key", func(m *Manifest) {
			stranger, _ := testKey("mallory")
			message, _ := m.message()
			m.Signature.Value = base64.StdEncoding.EncodeToString(ed25519.Sign(stranger, message))
		}, ErrAltered, []string{"signature.value was changed, or is of a key that is not trusted here"}},
		{"value cut", func(m *Manifest) { m.Signature.Value = m.Signature.Value[:40] }, ErrAltered, []string{"signature.value is not the base64 of 64 bytes"}},
		{"value in other base64", func(m *Manifest) { m.Signature.Value += "\n" }, ErrAltered, []string{"signature.value"}},
		{"value missing", func(m *Manifest) { m.Signature.Value = "" }, ErrUnsigned, []string{"not signed"}},
		{"no signature", func(m *Manifest) { m.Signature = nil }, ErrUnsigned, []string{"not signed"}},
		{"permission and covers", func(m *Manifest) {
			m.Asks.Exec = []string{"/**"}
			m.Signature.Covers = m.fingerprints()
		}, ErrAltered, []string{"signature.value was changed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, signers := signed(t)
			tt.alter(m)
			err := m.Verify(signers)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("does not say %q: %v", s, err)
				}
			}
		})
	}
}

// A signature over the bare canonical form, or for another purpose, is none over a manifest.
func TestDomainSeparation(t *testing.T) {
	m, signers := signed(t)
	key, _ := testKey("acme")
	canonical, err := m.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	m.Signature.Value = base64.StdEncoding.EncodeToString(ed25519.Sign(key, canonical))
	if err := m.Verify(signers); !errors.Is(err, ErrAltered) {
		t.Errorf("got %v", err)
	}
}

func TestCoversThatDoNotDescribeAreRefused(t *testing.T) {
	m, signers := signed(t)
	key, _ := testKey("acme")
	m.Signature.Covers["version"] = nil
	message, _ := m.message()
	m.Signature.Value = base64.StdEncoding.EncodeToString(ed25519.Sign(key, message))
	if err := m.Verify(signers); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), "covers does not describe") {
		t.Errorf("got %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	key, _ := testKey("acme")
	if err := parse(t, example).Sign(key, "../acme"); err == nil {
		t.Error("a name that is no file name was accepted")
	}
	if err := parse(t, example).Sign(key[:10], "acme"); err == nil {
		t.Error("half a key was accepted")
	}
	m := &Manifest{SkillID: "a b", Version: "1"}
	if err := m.Sign(key, "acme"); err == nil || m.Signature != nil {
		t.Errorf("a manifest that cannot be read was signed: %v", err)
	}
}

func TestLoadSigners(t *testing.T) {
	dir := t.TempDir()
	public, err := GenerateKey(dir, "acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := GenerateKey(dir, "acme"); !errors.Is(err, fs.ErrExist) && !strings.Contains(err.Error(), "exists") {
		t.Errorf("a key pair was overwritten: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "acme.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the private key: %v, %v", info.Mode(), err)
	}
	signers, err := LoadSigners(dir)
	if err != nil || len(signers) != 1 || signers[0].Name != "acme" || !signers[0].Key.Equal(public) {
		t.Fatalf("got %v, %v", signers, err)
	}
	key, err := ReadPrivateKey(filepath.Join(dir, "acme.key"))
	if err != nil {
		t.Fatal(err)
	}
	m := parse(t, example)
	if err := m.Sign(key, "acme"); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(signers); err != nil {
		t.Error(err)
	}
}

func TestLoadSignersRefuses(t *testing.T) {
	good := func(t *testing.T, dir string) string {
		if _, err := GenerateKey(dir, "acme"); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "acme.pub")
	}
	write := func(t *testing.T, file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const p256 = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n-----END PUBLIC KEY-----\n"
	tests := []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  string
	}{
		{"writable by others", func(t *testing.T, dir string) { os.Chmod(good(t, dir), 0o666) }, "chmod go-w"},
		{"folder writable by others", func(t *testing.T, dir string) { good(t, dir); os.Chmod(dir, 0o777) }, "chmod go-w"},
		{"private key as .pub", func(t *testing.T, dir string) {
			os.Rename(strings.TrimSuffix(good(t, dir), ".pub")+".key", filepath.Join(dir, "x.pub"))
		}, `expected one PEM block "PUBLIC KEY"`},
		{"no PEM", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "x.pub"), "ssh-ed25519 AAAA") }, "expected one PEM block"},
		{"two keys", func(t *testing.T, dir string) {
			text, _ := os.ReadFile(good(t, dir))
			write(t, filepath.Join(dir, "x.pub"), string(text)+string(text))
		}, "one key per file"},
		{"other key type", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "x.pub"), p256) }, "only Ed25519"},
		{"garbage in PEM", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "x.pub"), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
		}, "not a PKIX public key"},
		{"large file", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "x.pub"), strings.Repeat("a", maxKeyFile+1))
		}, "no key file"},
		{"folder as .pub", func(t *testing.T, dir string) { os.Mkdir(filepath.Join(dir, "x.pub"), 0o700) }, "not a regular file"},
		{"no folder", func(t *testing.T, dir string) { os.Remove(dir) }, "make the folder"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "signers")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			tt.spoil(t, dir)
			if _, err := LoadSigners(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// The document says that anyone can check a signature with jq and openssl; so it must be so.
func TestOpenSSLVerifies(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: ", err)
	}
	dir := t.TempDir()
	if _, err := GenerateKey(dir, "acme"); err != nil {
		t.Fatal(err)
	}
	key, err := ReadPrivateKey(filepath.Join(dir, "acme.key"))
	if err != nil {
		t.Fatal(err)
	}
	m := parse(t, example)
	if err := m.Sign(key, "acme"); err != nil {
		t.Fatal(err)
	}
	// encoding/json sorts keys and writes no spaces: for ASCII text without <, > and & that is the RFC 8785 form.
	text, _ := m.Encode()
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	signature := document["signature"].(map[string]any)
	value, err := base64.StdEncoding.DecodeString(signature["value"].(string))
	if err != nil {
		t.Fatal(err)
	}
	delete(signature, "value")
	canonical, _ := json.Marshal(document)
	message := append([]byte("raypher clawmanifest v1\n"), canonical...)
	for name, content := range map[string][]byte{"message": message, "signature": value} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "acme.pub", "-rawin", "-in", "message", "-sigfile", "signature")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("openssl: %v: %s", err, out)
	}
}
