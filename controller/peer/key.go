package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/raypher/raypher/internal/statefile"
)

// OpenKey reads a private P-256 key, PKCS #8 in PEM, that nobody but its owner can read. Where create is set and there is none it is made.
func OpenKey(path string, create bool) (key *ecdsa.PrivateKey, made bool, err error) {
	key, err = readKey(path)
	if !errors.Is(err, fs.ErrNotExist) || !create {
		return key, false, err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, false, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, false, err
	}
	if made, err = statefile.Create(filepath.Dir(path), filepath.Base(path), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, false, fmt.Errorf("make key %s: %w", path, err)
	}
	key, err = readKey(path) // of another process, where one was faster
	return key, made, err
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > 4096 {
		return nil, fmt.Errorf("key %s: not a small regular file", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block != nil && block.Type == "PUBLIC KEY" {
		return nil, fmt.Errorf("key %s: it is the public half: name the file beside it, without .pub", path)
	}
	if block == nil {
		return nil, fmt.Errorf("key %s: not PEM: `raypher-controller keygen` makes one", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key %s: not a file that only its owner can read: chmod 600", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w: `raypher-controller keygen` makes one", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("key %s: not ECDSA on P-256: `raypher-controller keygen` makes one", path)
	}
	return key, nil
}
