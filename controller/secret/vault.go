package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/internal/strictcbor"
)

// The key file is one PEM block of this type with 32 random bytes.
const (
	keyType    = "RAYPHER SECRETS KEY"
	keySize    = 32
	maxKeyFile = 4096 // bytes
)

// Vault encrypts values for the database with AES-256-GCM, so that the database alone, or a backup of it, tells none. It is
// immutable.
type Vault struct {
	aead cipher.AEAD
	id   [sha256.Size]byte // of the key
}

// place is what stands beside a value in the database. A value opens only beside what it was sealed with: who can write the
// database can neither exchange values nor give one to more hosts. Its deterministic encoding is the additional data.
type place struct {
	Name    string `cbor:"1,keyasint"`
	Version uint64 `cbor:"2,keyasint"`
	Hosts   string `cbor:"3,keyasint"`
	Tiers   string `cbor:"4,keyasint"`
	Expires int64  `cbor:"5,keyasint"` // Unix seconds; 0: never
}

// MakeKey writes a key file, mode 0600, where there is none yet. made says whether.
func MakeKey(path string) (made bool, err error) {
	key := make([]byte, keySize)
	rand.Read(key) // never fails (crypto/rand)
	made, err = statefile.Create(filepath.Dir(path), filepath.Base(path), pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: key}))
	if err != nil {
		return false, fmt.Errorf("make key of secrets: %w", err)
	}
	return made, nil
}

// OpenVault reads a key file. It refuses one that everybody on the machine can read.
func OpenVault(path string) (*Vault, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("key of secrets: %w: give each replica a copy of the same file", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("key of secrets: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("key of secrets %s: mode %04o is open to everybody: chmod 0600 it", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("key of secrets: %w", err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != keyType || len(block.Bytes) != keySize || len(rest) != 0 {
		return nil, fmt.Errorf("key of secrets %s: not one PEM block %q of %d bytes: copy the file from another replica, or from your backup", path, keyType, keySize)
	}
	return newVault(block.Bytes)
}

func newVault(key []byte) (*Vault, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Vault{aead, sha256.Sum256(append([]byte("raypher secrets key id 1\x00"), key...))}, nil
}

// seal encrypts a value. Nonces are random (NIST SP 800-38D, 8.2.2: fit for 2^32 values under one key).
func (v *Vault) seal(p place, value []byte) []byte {
	return v.aead.Seal(nil, nil, value, strictcbor.Encode(p))
}

var errStored = errors.New("it does not open with this controller's key beside what the database says of it: the database was changed by hand: put the secret again")

func (v *Vault) open(p place, stored []byte) ([]byte, error) {
	value, err := v.aead.Open(nil, nil, stored, strictcbor.Encode(p))
	if err != nil {
		return nil, fmt.Errorf("secret %s, version %d: %w", p.Name, p.Version, errStored)
	}
	return value, nil
}
