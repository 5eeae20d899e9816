package recipient

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
)

var (
	epoch = journal.EpochID{1, 2, 3}
	label = Label{Name: "openai/key", Version: 7, Host: "web-1", Expires: 1 << 40}
	value = []byte("sk-not-a-key")
)

// enclave is a signing key, its public half, a recipient key and the signed recipient, good for an hour.
func enclave(t testing.TB, now time.Time) (*journal.Key, *Key, []byte) {
	t.Helper()
	signer := journaltest.NewKey(t)
	public, err := journal.NewKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	key, err := Make()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.Sign(signer, epoch, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return public, key, signed
}

func TestSealedSecretOpens(t *testing.T) {
	now := time.Now()
	public, key, signed := enclave(t, now)
	r, err := Verify(signed, public, now)
	if err != nil {
		t.Fatal(err)
	}
	if r.Epoch != epoch {
		t.Errorf("epoch %x", r.Epoch)
	}
	for _, v := range [][]byte{value, {0}, make([]byte, MaxValue)} {
		encapsulated, ciphertext, err := r.Seal(label, v)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.Open(label, encapsulated, ciphertext); err != nil || !bytes.Equal(got, v) {
			t.Errorf("%d bytes: %d bytes, %v", len(v), len(got), err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	now := time.Now()
	public, key, signed := enclave(t, now)
	foreign, _, _ := enclave(t, now)
	changed := bytes.Clone(signed)
	changed[len(changed)-1] ^= 1
	signer := journaltest.NewKey(t)
	tooLong, err := key.Sign(signer, epoch, now.Add(MaxLifetime+time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	tooLongKey, _ := journal.NewKey(signer.Public())
	otherType, err := journal.SignMessage("application/raypher-head+cbor", []byte{1}, signer)
	if err != nil {
		t.Fatal(err)
	}
	badPoint, err := journal.SignMessage(messageType, []byte{0xa3, 1, 0x41, 4, 2, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0}, signer)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		signed []byte
		key    *journal.Key
		now    time.Time
		want   error
	}{
		{"another enclave's key", signed, foreign, now, journal.ErrUnknownKey},
		{"changed signature", changed, public, now, journal.ErrSignature},
		{"expired", signed, public, now.Add(time.Hour), ErrExpired},
		{"signed for longer than a day", tooLong, tooLongKey, now, ErrExpired},
		{"a message of another type", otherType, tooLongKey, now, ErrMalformed},
		{"no point of the curve", badPoint, tooLongKey, now, ErrMalformed},
		{"empty", nil, public, now, ErrMalformed},
		{"cut", signed[:len(signed)-1], public, now, ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Verify(c.signed, c.key, c.now); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

// A secret opens under its own label and for its own recipient only.
func TestOpenRefuses(t *testing.T) {
	now := time.Now()
	public, key, signed := enclave(t, now)
	_, foreign, _ := enclave(t, now)
	r, err := Verify(signed, public, now)
	if err != nil {
		t.Fatal(err)
	}
	encapsulated, ciphertext, err := r.Seal(label, value)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Label)) Label { l := label; change(&l); return l }
	flip := func(b []byte, i int) []byte { b = bytes.Clone(b); b[i] ^= 1; return b }
	for _, c := range []struct {
		name                     string
		key                      *Key
		label                    Label
		encapsulated, ciphertext []byte
		want                     error
	}{
		{"another recipient", foreign, label, encapsulated, ciphertext, ErrOpen},
		{"another name", key, with(func(l *Label) { l.Name = "x" }), encapsulated, ciphertext, ErrOpen},
		{"another version", key, with(func(l *Label) { l.Version++ }), encapsulated, ciphertext, ErrOpen},
		{"another host", key, with(func(l *Label) { l.Host = "web-2" }), encapsulated, ciphertext, ErrOpen},
		{"another expiry", key, with(func(l *Label) { l.Expires = 0 }), encapsulated, ciphertext, ErrOpen},
		{"changed ciphertext", key, label, encapsulated, flip(ciphertext, 0), ErrOpen},
		{"changed encapsulation", key, label, flip(encapsulated, 64), ciphertext, ErrOpen},
		{"no ciphertext", key, label, encapsulated, nil, ErrMalformed},
		{"too large", key, label, encapsulated, make([]byte, MaxValue+Overhead+1), ErrMalformed},
		{"no name", key, with(func(l *Label) { l.Name = "" }), encapsulated, ciphertext, ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := c.key.Open(c.label, c.encapsulated, c.ciphertext); !errors.Is(err, c.want) || got != nil {
				t.Errorf("%q, error %v, want %v", got, err, c.want)
			}
		})
	}
	if _, _, err := r.Seal(label, make([]byte, MaxValue+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too large a value: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	now := time.Now()
	public, _, signed := enclave(f, now)
	f.Add(signed)
	f.Add([]byte{0xd2, 0x84})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Verify(data, public, now); err == nil && !bytes.Equal(data, signed) {
			t.Error("something else than the signed recipient was taken")
		}
	})
}
