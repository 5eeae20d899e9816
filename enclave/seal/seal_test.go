package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"

	attest "github.com/raypher/raypher/attest/tpm"
)

func keyPair(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// A file opens as it was written, with its data key and no other.
func TestLockAndUnlock(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, DataKeySize), bytes.Repeat([]byte{2}, DataKeySize)
	for _, secret := range [][]byte{{0}, bytes.Repeat([]byte("s"), MaxSecret)} {
		s := &Sealed{Name: "a", PolicyKey: []byte{1}, MinVersion: 1, Primary: []byte{1}, Public: []byte{1}, Private: []byte{1}}
		if err := s.Lock(key, secret); err != nil {
			t.Fatal(err)
		}
		file := s.Encode()
		if len(file) > MaxSealed {
			t.Errorf("%d bytes", len(file))
		}
		again, err := Decode(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again.Unlock(key); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := again.Unlock(other); !errors.Is(err, ErrMalformed) {
			t.Errorf("another data key: %v", err)
		}
	}
}

// Nothing that arrives as a policy or sealed secret may panic; what opens was signed.
func FuzzFiles(f *testing.F) {
	key, der := keyPair(f)
	signed, err := Sign(&Policy{Name: "a", Version: 1, PCRs: []attest.PCR{{Index: 7}}}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	s := &Sealed{Name: "a", PolicyKey: der, MinVersion: 1, Primary: []byte{1}, Public: []byte{1}, Private: []byte{1}}
	if err := s.Lock(make([]byte, DataKeySize), []byte("secret")); err != nil {
		f.Fatal(err)
	}
	f.Add(s.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Open(data, der); err == nil && !bytes.Equal(data, signed) {
			t.Error("a forged policy opens")
		} else if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
			t.Errorf("error without a kind: %v", err)
		}
		if s, err := Decode(data); err == nil && !bytes.Equal(s.Encode(), data) {
			t.Error("decoded and encoded again it differs")
		}
	})
}
