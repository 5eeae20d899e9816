package providerkeys_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/providerkeys"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/recipient"
)

// world is an enclave's keys, and the operator who changes them.
type world struct {
	*testing.T
	options  providerkeys.Options
	keys     *providerkeys.Keys
	key      *journal.Key
	operator ed25519.PrivateKey
	entries  [][]byte
	noStore  error // of the journal
	log      bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	signing, _, err := software.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { signing.Close() })
	w := &world{T: t}
	if w.key, err = journal.NewKey(signing.Public()); err != nil {
		t.Fatal(err)
	}
	var public ed25519.PublicKey
	if public, w.operator, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	w.options = providerkeys.Options{
		State: dir, OperatorKeys: [][]byte{der}, Epoch: journal.EpochID{1}, Signer: signer.ForJournal(context.Background(), signing), Keeps: true,
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Record: func(_ context.Context, entry []byte) error {
			w.entries = append(w.entries, entry)
			return w.noStore
		},
	}
	w.open()
	return w
}

// open is a start of the enclave.
func (w *world) open() {
	w.Helper()
	keys, err := providerkeys.Open(w.options)
	if err != nil {
		w.Fatal(err)
	}
	w.keys = keys
}

// sealed makes a change as the CLI does.
func (w *world) sealed(action journal.ProviderKeyAction, name, secret string) *providerkeys.Change {
	w.Helper()
	_, version := w.keys.List()
	c := &providerkeys.Change{Name: name, Version: version + 1, Action: action, Epoch: w.options.Epoch}
	if action == journal.KeyRemoved {
		return c
	}
	signed, err := w.keys.Recipient()
	if err != nil {
		w.Fatal(err)
	}
	to, err := recipient.Verify(signed, w.key, time.Now())
	if err == nil {
		err = c.Seal(to, []byte(secret))
	}
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func (w *world) sign(c *providerkeys.Change, key ed25519.PrivateKey) []byte {
	w.Helper()
	signed, err := c.Sign(key)
	if err != nil {
		w.Fatal(err)
	}
	return signed
}

func (w *world) change(action journal.ProviderKeyAction, name, secret string) {
	w.Helper()
	if err := w.keys.Apply(w.Context(), w.sign(w.sealed(action, name, secret), w.operator)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) holds(name, want string) {
	w.Helper()
	if got, ok := w.keys.Secret(name); got != want || ok != (want != "") {
		w.Errorf("%s: %q, %v: want %q", name, got, ok, want)
	}
}

const first, second = "sk-first-0123456789", "sk-second-0123456789"

// TestLife: a key counts from the next call on, across restarts, until it is replaced or removed; the journal tells the change and not the key.
func TestLife(t *testing.T) {
	for name, dataKey := range map[string]func() ([]byte, error){
		"plain file":  nil,
		"sealed file": func() ([]byte, error) { return bytes.Repeat([]byte{7}, 32), nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.options.DataKey = dataKey
			w.open()
			w.holds("openai", "")
			w.change(journal.KeyAdded, "openai", first)
			w.change(journal.KeyAdded, "anthropic", "sk-other")
			w.holds("openai", first)
			before, _ := w.keys.List()
			w.open()
			w.holds("openai", first)
			w.change(journal.KeyRotated, "openai", second)
			w.holds("openai", second)
			after, version := w.keys.List()
			if len(before) != 2 || len(after) != 2 || version != 3 || before[1].Fingerprint == after[1].Fingerprint || before[0] != after[0] {
				t.Errorf("%v, then %v, version %d", before, after, version)
			}
			w.change(journal.KeyRemoved, "openai", "")
			w.holds("openai", "")
			w.open()
			w.holds("openai", "")
			w.holds("anthropic", "sk-other")
			w.told(journal.KeyAdded, journal.KeyAdded, journal.KeyRotated, journal.KeyRemoved)
			w.nowhere(dataKey != nil, first, second, "sk-other")
		})
	}
}

// told holds that the journal has these actions.
func (w *world) told(actions ...journal.ProviderKeyAction) {
	w.Helper()
	for i, raw := range w.entries {
		e, err := journal.Decode(raw)
		if err != nil {
			w.Fatal(err)
		}
		p, err := journal.DecodeProviderKey(e.Payload)
		if err != nil || e.Type != journal.TypeProviderKey || len(actions) != len(w.entries) || p.Action != actions[i] || p.Version != uint64(i+1) || p.Operator == (journal.Hash{}) {
			w.Errorf("entry %d of %d: %+v, %v", i, len(w.entries), p, err)
		}
	}
}

// nowhere holds that secrets are in no entry and no line of the log, and where they are sealed in no file.
func (w *world) nowhere(sealed bool, secrets ...string) {
	w.Helper()
	places := append([][]byte{w.log.Bytes()}, w.entries...)
	files, err := filepath.Glob(filepath.Join(w.options.State, "provider-keys*"))
	if err != nil || len(files) != 1 {
		w.Fatalf("files %v, %v", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		w.Errorf("%s: mode %v, %v", files[0], info.Mode(), err)
	}
	if sealed {
		text, err := os.ReadFile(files[0])
		if err != nil {
			w.Fatal(err)
		}
		places = append(places, text)
	}
	for _, secret := range secrets {
		for _, place := range places {
			if bytes.Contains(place, []byte(secret)) {
				w.Errorf("%q stands in %q", secret, place)
			}
		}
	}
}

// TestRefused: what an operator did not sign for this enclave, now and in this order, changes nothing.
func TestRefused(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add := func(w *world) *providerkeys.Change { return w.sealed(journal.KeyAdded, "new", second) }
	for _, c := range []struct {
		name   string
		signed func(*world) []byte
		want   error
	}{
		{"no statement", func(*world) []byte { return []byte("sk-") }, providerkeys.ErrMalformed},
		{"another operator", func(w *world) []byte { return w.sign(add(w), stranger) }, providerkeys.ErrSignature},
		{"a bit", func(w *world) []byte {
			signed := w.sign(add(w), w.operator)
			signed[len(signed)/2] ^= 1
			return signed
		}, providerkeys.ErrSignature},
		{"the same again", func(w *world) []byte {
			signed := w.sign(w.sealed(journal.KeyRotated, "openai", first), w.operator)
			if err := w.keys.Apply(t.Context(), signed); err != nil {
				t.Fatal(err)
			}
			return signed
		}, providerkeys.ErrVersion},
		{"another life of the enclave", func(w *world) []byte {
			signed := w.sign(add(w), w.operator)
			w.options.Epoch = journal.EpochID{2}
			w.open()
			return signed
		}, providerkeys.ErrVersion},
		{"a removal in another life", func(w *world) []byte {
			signed := w.sign(w.sealed(journal.KeyRemoved, "openai", ""), w.operator)
			w.options.Epoch = journal.EpochID{2}
			w.open()
			return signed
		}, providerkeys.ErrVersion},
		{"another name for the secret", func(w *world) []byte {
			change := add(w)
			change.Name = "openai2"
			return w.sign(change, w.operator)
		}, providerkeys.ErrVersion},
		{"added twice", func(w *world) []byte { return w.sign(w.sealed(journal.KeyAdded, "openai", second), w.operator) }, providerkeys.ErrRefused},
		{"rotated, not there", func(w *world) []byte { return w.sign(w.sealed(journal.KeyRotated, "new", second), w.operator) }, providerkeys.ErrRefused},
		{"removed, not there", func(w *world) []byte { return w.sign(w.sealed(journal.KeyRemoved, "new", ""), w.operator) }, providerkeys.ErrRefused},
		{"no store", func(w *world) []byte {
			w.noStore = os.ErrDeadlineExceeded
			return w.sign(w.sealed(journal.KeyRotated, "openai", second), w.operator)
		}, os.ErrDeadlineExceeded},
		{"a full disk", func(w *world) []byte {
			if err := os.RemoveAll(w.options.State); err != nil {
				t.Fatal(err)
			}
			return w.sign(add(w), w.operator)
		}, os.ErrNotExist},
		{"an enclave that keeps none", func(w *world) []byte {
			signed := w.sign(add(w), w.operator)
			w.options.Keeps = false
			w.open()
			return signed
		}, providerkeys.ErrRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.change(journal.KeyAdded, "openai", first)
			signed := c.signed(w)
			kept := first
			if !w.options.Keeps {
				kept = ""
			}
			if err := w.keys.Apply(t.Context(), signed); !errors.Is(err, c.want) || strings.Contains(err.Error(), second) {
				t.Errorf("%v, want %v", err, c.want)
			}
			w.holds("openai", kept)
			w.holds("new", "")
		})
	}
}

// TestOutside: a secret of a controller or of KMS is the key of its name.
func TestOutside(t *testing.T) {
	w := newWorld(t)
	w.change(journal.KeyAdded, "openai", first)
	w.change(journal.KeyAdded, "own", first)
	w.options.Outside = func(name string) ([]byte, error) {
		switch name {
		case "openai":
			return []byte(second + "\n"), nil
		case "bad":
			return []byte("two\r\nHeaders: 1"), nil
		}
		return nil, os.ErrNotExist
	}
	w.open()
	w.holds("openai", second)
	w.holds("own", first)
	if got, ok := w.keys.Secret("bad"); ok {
		t.Errorf("a key that is no header: %q", got)
	}
}

// TestUnsigned: what nobody has signed is taken in development alone, and signed there by the enclave itself.
func TestUnsigned(t *testing.T) {
	w := newWorld(t)
	unsigned := func() []byte {
		t.Helper()
		text, err := w.sealed(journal.KeyAdded, "openai", "sk-1").Unsigned()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if err := w.keys.Apply(t.Context(), unsigned()); !errors.Is(err, providerkeys.ErrSignature) || !strings.Contains(err.Error(), "--key") {
		t.Errorf("not in development: %v", err)
	}
	w.holds("openai", "")
	w.options.Development = w.operator
	w.open()
	if err := w.keys.Apply(t.Context(), unsigned()); err != nil {
		t.Fatal(err)
	}
	w.holds("openai", "sk-1")
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.keys.Apply(t.Context(), w.sign(w.sealed(journal.KeyRotated, "openai", "sk-2"), other)); !errors.Is(err, providerkeys.ErrSignature) {
		t.Errorf("signed by somebody else: %v", err)
	}
	w.holds("openai", "sk-1")
}

// TestChangedFile: a file that was changed opens nothing, and says what to do.
func TestChangedFile(t *testing.T) {
	w := newWorld(t)
	w.options.DataKey = func() ([]byte, error) { return bytes.Repeat([]byte{7}, 32), nil }
	w.open()
	w.change(journal.KeyAdded, "openai", first)
	path := filepath.Join(w.options.State, "provider-keys.sealed")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, good[:11], append(bytes.Clone(good), 0), append([]byte{good[0] ^ 1}, good[1:]...)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := providerkeys.Open(w.options); err == nil || !strings.Contains(err.Error(), "move the file away") {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func TestSecretsForHeaders(t *testing.T) {
	w := newWorld(t)
	signed, err := w.keys.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	to, err := recipient.Verify(signed, w.key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"", "a b", "a\n", "a\r\nX: 1", "ä", strings.Repeat("x", providerkeys.MaxSecret+1)} {
		c := &providerkeys.Change{Name: "openai", Version: 1, Action: journal.KeyAdded}
		if err := c.Seal(to, []byte(secret)); err == nil || secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", secret, err)
		}
	}
}

func FuzzApply(f *testing.F) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		f.Fatal(err)
	}
	keys, err := providerkeys.Open(providerkeys.Options{State: f.TempDir(), OperatorKeys: [][]byte{der}, Keeps: true, Log: slog.New(slog.DiscardHandler),
		Record: func(context.Context, []byte) error { f.Error("a forged change was recorded"); return nil }})
	if err != nil {
		f.Fatal(err)
	}
	signed, err := (&providerkeys.Change{Name: "a", Version: 1, Action: journal.KeyRemoved}).Sign(private)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Fuzz(func(t *testing.T, signed []byte) {
		if err := keys.Apply(t.Context(), signed); err == nil {
			t.Error("taken")
		}
	})
}
