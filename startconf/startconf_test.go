package startconf

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var hashA = "sha256:" + strings.Repeat("0a", 32)

func operatorLine(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(ed25519.NewKeyFromSeed(make([]byte, 32)).Public())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // substrings of the error; none: no error
	}{
		{"empty", "", nil},
		{"comment and blank lines", "# a\n\n   # b\n", nil},
		{"all keys", "trust_domain = prod.example.org\nttl_seconds=60\ncaller_key = " + hashA + "\npredecessor = " + hashA + "\nnitro_root = " + hashA +
			"\nvisas_per_second = 100\nvisas_per_second_per_agent = 5\noperator_key = " + operatorLine(t), nil},
		{"unknown key", "tll_seconds = 60", []string{"f:1:", `unknown key "tll_seconds"`}},
		{"all mistakes at once", "ttl_seconds = 5\nnonsense\ntrust_domain = UPPER",
			[]string{"f:1: ttl_seconds", "f:2:", "f:3: trust_domain"}},
		{"lifetime above the bound", "ttl_seconds = 3601", []string{"from 10 to 3600"}},
		{"negative", "ttl_seconds = -1", []string{"from 10 to 3600"}},
		{"twice", "ttl_seconds = 60\n\nttl_seconds = 61", []string{"f:3: ttl_seconds stands already in line 1"}},
		{"short hash", "caller_key = sha256:00", []string{"64 hexadecimal digits"}},
		{"same caller twice", "caller_key = " + hashA + "\ncaller_key = " + hashA, []string{"f:2: caller_key: the same key"}},
		{"same root twice", "nitro_root = " + hashA + "\nnitro_root = " + hashA, []string{"f:2: nitro_root: the same key"}},
		{"operator key that is none", "operator_key = AAAA", []string{"raypher ceiling keygen"}},
		{"a controller", controllerLines(t), nil},
		{"a controller without keys", "controller = a.example:443", []string{"no controller_key"}},
		{"a controller without result keys", "controller = a.example:443\ncontroller_key = " + hashA, []string{"no controller_result_key"}},
		{"keys without a controller", "controller_key = " + hashA, []string{"controller: host:port is missing"}},
		{"a controller without port", "controller = a.example", []string{"f:1: controller", "host:port"}},
		{"a controller at port 0", "controller = a.example:0", []string{"f:1: controller", "host:port"}},
		{"a controller with a path", "controller = a.example/x:443", []string{"f:1: controller", "host:port"}},
		{"two controllers", "controller = a.example:1\ncontroller = b.example:1", []string{"f:2: controller stands already"}},
		{"a result key on another curve", "controller_result_key = " + operatorLine(t), []string{"f:1: controller_result_key", "P-256"}},
		{"no value", "ttl_seconds =", []string{"not `key = value`"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", []byte(c.text))
			if len(c.want) == 0 && err != nil {
				t.Fatal(err)
			}
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error %v, want one with %q", err, w)
				}
			}
		})
	}
}

// controllerLines names a controller with two keys of each kind, the second ones in front of the first.
func controllerLines(t testing.TB) string {
	t.Helper()
	text := "controller = controller.example.org:7443\ncontroller_key = sha256:" + strings.Repeat("0b", 32) + "\ncontroller_key = " + hashA + "\n"
	for range 2 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		text += "controller_result_key = " + base64.StdEncoding.EncodeToString(der) + "\n"
	}
	return text
}

// Whoever trusts an enclave of a configuration trusts its controller, so all of it is in the hash.
func TestHashNamesTheController(t *testing.T) {
	whole, err := Parse("f", []byte(controllerLines(t)))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse("f", whole.Format()); err != nil || again.Hash() != whole.Hash() {
		t.Fatalf("own form: %v", err)
	}
	for name, change := range map[string]func(*Configuration){
		"address":    func(c *Configuration) { c.Controller = "x.example.org:7443" },
		"TLS key":    func(c *Configuration) { c.ControllerKeys = c.ControllerKeys[1:] },
		"result key": func(c *Configuration) { c.ResultKeys = c.ResultKeys[1:] },
	} {
		other := *whole
		if change(&other); other.Hash() == whole.Hash() {
			t.Errorf("another %s has the same hash", name)
		}
	}
	// A configuration without one hashes as it did before there were controllers.
	plain, err := Parse("f", []byte("caller_key = "+hashA))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", plain.Hash()); got != plainHash {
		t.Errorf("hash %s, before %s", got, plainHash)
	}
}

// plainHash is of a configuration without a controller, as it was before there were any.
const plainHash = "75c1aced6033de29df42da10c6bacbd932907081d1f6f95e12e614bd716f14c6"

func TestHashIgnoresForm(t *testing.T) {
	hashB := "sha256:" + strings.Repeat("0b", 32)
	a, err := Parse("a", []byte("caller_key = "+hashA+"\ncaller_key = "+hashB))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse("b", []byte("# x\ncaller_key="+hashB+"\nttl_seconds = 300\n\ncaller_key = "+hashA))
	if err != nil {
		t.Fatal(err)
	}
	if a.Hash() != b.Hash() {
		t.Error("order, comments or a spelt-out default changed the hash")
	}
	b.TTLSeconds++
	if a.Hash() == b.Hash() {
		t.Error("another lifetime has the same hash")
	}
	b.TTLSeconds--
	b.NitroRoots = []KeyHash{{1}}
	if a.Hash() == b.Hash() {
		t.Error("another root has the same hash")
	}
}

func TestWriteRead(t *testing.T) {
	dir := t.TempDir()
	c, err := Parse("f", []byte("caller_key = "+hashA+"\noperator_key = "+operatorLine(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, c); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, FileName)} {
		got, err := Read(path)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, FileName), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("world-writable file: error %v", err)
	}
}

// Whatever is accepted survives a round trip with the same hash.
func FuzzParse(f *testing.F) {
	f.Add([]byte("trust_domain = a.b\nttl_seconds = 60\n# c\ncaller_key = " + hashA))
	f.Add([]byte("operator_key = " + operatorLine(f)))
	f.Add([]byte(controllerLines(f)))
	f.Add([]byte("kms_secret = a " + testARN + " AAAA"))
	f.Add(bytes.Repeat([]byte("=\n"), 10))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f", text)
		if err != nil {
			return
		}
		again, err := Parse("g", c.Format())
		if err != nil {
			t.Fatalf("own form is refused: %v", err)
		}
		if again.Hash() != c.Hash() {
			t.Fatal("hash changed in a round trip")
		}
	})
}

// Each key of the file is one in which configurations can differ, but for the caller key.
func TestDifferences(t *testing.T) {
	fields := reflect.TypeFor[Configuration]()
	for i := range fields.NumField() {
		var a, b Configuration
		field := reflect.ValueOf(&b).Elem().Field(i)
		switch field.Kind() {
		case reflect.String:
			field.SetString("x")
		case reflect.Uint32:
			field.SetUint(77)
		case reflect.Slice:
			field.Set(reflect.MakeSlice(field.Type(), 1, 1))
		default:
			t.Fatalf("%s: a kind that this test does not know", fields.Field(i).Name)
		}
		want := 1
		if fields.Field(i).Name == "CallerKeys" {
			want = 0
		}
		if got := a.Differences(&b); len(got) != want {
			t.Errorf("%s: %q", fields.Field(i).Name, got)
		}
	}
}
