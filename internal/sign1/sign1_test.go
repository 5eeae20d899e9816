package sign1

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
)

const testType = "application/test+cbor"

func public(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func keys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"Ed25519": ed, "P-256": p256}
}

// No byte of a signed file can change, no other key or type takes its place, and a signature has one form.
func TestVerify(t *testing.T) {
	open := func(typ string, file []byte, trusted ...[]byte) error {
		m, err := Parse(typ, file, 4096)
		if err != nil {
			return err
		}
		return m.Verify(trusted)
	}
	for name, key := range keys(t) {
		t.Run(name, func(t *testing.T) {
			file, err := Sign(testType, []byte("payload"), key)
			if err != nil {
				t.Fatal(err)
			}
			der, stranger := public(t, key), public(t, keys(t)[name])
			if err := open(testType, file, stranger, der); err != nil {
				t.Error(err)
			}
			if err := open(testType, file, stranger); !errors.Is(err, ErrUnknownKey) {
				t.Errorf("another key: %v", err)
			}
			if err := open("application/other+cbor", file, der); err == nil {
				t.Error("taken for another type")
			}
			if _, err := Parse(testType, file, len(file)-1); err == nil {
				t.Error("above the limit")
			}
			for i := range file {
				for bit := range 8 {
					bent := bytes.Clone(file)
					bent[i] ^= 1 << bit
					if err := open(testType, bent, der); err == nil {
						t.Fatalf("bit %d of byte %d changed, and it verifies", bit, i)
					}
				}
			}
			for i := range file {
				if _, err := Parse(testType, file[:i], 4096); err == nil {
					t.Errorf("cut at byte %d", i)
				}
			}
			if name == "P-256" { // s' = n - s is a signature of the same bytes
				twin := bytes.Clone(file)
				s := twin[len(twin)-32:]
				new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(s)).FillBytes(s)
				if err := open(testType, twin, der); !errors.Is(err, ErrSignature) {
					t.Errorf("the twin of a signature: %v", err)
				}
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-384": p384, "RSA": rsaKey} {
		if _, err := Sign(testType, []byte("payload"), key); err == nil {
			t.Errorf("%s: it signs", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	key := keys(f)["Ed25519"]
	file, err := Sign(testType, []byte("payload"), key)
	if err != nil {
		f.Fatal(err)
	}
	der := public(f, key)
	f.Add(file)
	f.Add([]byte{Tag, 0x84, 0x40, 0xa0, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := Parse(testType, data, 4096); err == nil && m.Verify([][]byte{der}) == nil && !bytes.Equal(data, file) {
			t.Error("a forged file verifies")
		}
	})
}
