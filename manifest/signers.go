package manifest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	publicSuffix = ".pub"
	maxKeyFile   = 16 << 10 // bytes; a PEM of an Ed25519 key has 113
	maxSigners   = 256
)

// signerSyntax holds for names and for key ids.
var signerSyntax = syntax(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,70}$`)

// Signer is one trusted author.
type Signer struct {
	Name string // the file without .pub
	Key  ed25519.PublicKey
}

// KeyID names a key by itself: "sha256:" and the SHA-256 of its PKIX form in hex.
func (s Signer) KeyID() string { return KeyID(s.Key) }

// KeyID is the key id of a public key.
func KeyID(key ed25519.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil { // only for unknown key types
		return ""
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Signers are the authors that a host trusts.
type Signers []Signer

// find returns the signer that is called by or has the key id by.
func (s Signers) find(by string) (Signer, bool) {
	for _, signer := range s {
		if signer.Name == by || signer.KeyID() == by {
			return signer, true
		}
	}
	return Signer{}, false
}

func (s Signers) describe() string {
	names := make([]string, 0, len(s))
	for _, signer := range s {
		names = append(names, signer.Name)
	}
	switch {
	case len(names) == 0:
		return "and no signer is trusted here"
	case len(names) > 10:
		return fmt.Sprintf("trusted are %s and %d more", strings.Join(names[:10], ", "), len(names)-10)
	}
	return "trusted are " + strings.Join(names, ", ")
}

// LoadSigners reads the trusted signers from a folder of <name>.pub files, each one PEM block "PUBLIC KEY" (RFC 8410, PKIX) of
// an Ed25519 key. Other files are ignored. A file that cannot be used is an error: a host must not run on other trust than its
// operator laid down. So is a folder or file that anyone but its owner can write. A folder that does not exist is an error that
// is fs.ErrNotExist.
func LoadSigners(dir string) (Signers, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("trusted signers: %w: make the folder and put <name>.pub of each trusted author into it", err)
	}
	if err != nil {
		return nil, fmt.Errorf("trusted signers: %w", err)
	}
	if err := ownerOnly(dir); err != nil {
		return nil, err
	}
	var signers Signers
	var problems []error
	for _, e := range entries {
		name, isKey := strings.CutSuffix(e.Name(), publicSuffix)
		if !isKey {
			continue
		}
		key, err := readSigner(filepath.Join(dir, e.Name()))
		switch {
		case err != nil:
			problems = append(problems, err)
		case !signerSyntax().MatchString(name):
			problems = append(problems, fmt.Errorf("trusted signer %q: use letters, digits and . _ - for the name", name))
		case len(signers) == maxSigners:
			return nil, fmt.Errorf("trusted signers: more than %d in %s", maxSigners, dir)
		default:
			signers = append(signers, Signer{Name: name, Key: key})
		}
	}
	return signers, errors.Join(problems...)
}

// ownerOnly refuses what group or others may write: who can add a signer can sign any manifest.
func ownerOnly(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("trusted signers: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("trusted signers: %s can be written by others than its owner: chmod go-w %s", path, path)
	}
	return nil
}

func readSigner(file string) (ed25519.PublicKey, error) {
	if err := ownerOnly(file); err != nil {
		return nil, err
	}
	block, err := readPEM(file, "PUBLIC KEY")
	if err != nil {
		return nil, fmt.Errorf("trusted signer: %w", err)
	}
	key, err := x509.ParsePKIXPublicKey(block)
	if err != nil {
		return nil, fmt.Errorf("trusted signer %s: not a PKIX public key: %w", file, err)
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("trusted signer %s: the key is %T: only Ed25519 is supported", file, key)
	}
	return public, nil
}

// ReadPrivateKey reads a PEM file "PRIVATE KEY" (PKCS #8, RFC 8410) with an Ed25519 key.
func ReadPrivateKey(file string) (ed25519.PrivateKey, error) {
	block, err := readPEM(file, "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(block)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: not a PKCS #8 private key: %w", file, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("signing key %s: the key is %T: only Ed25519 is supported: raypher manifest keygen makes one", file, key)
	}
	return private, nil
}

// readPEM returns the bytes of the one PEM block in a file.
func readPEM(file, blockType string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a fifo must not hold us
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("%s: larger than %d bytes, this is no key file", file, maxKeyFile)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != blockType {
		return nil, fmt.Errorf("%s: expected one PEM block %q", file, blockType)
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("%s: something follows the first PEM block: one key per file", file)
	}
	return block.Bytes, nil
}

// GenerateKey writes a new key pair to dir: <name>.key (0600, stays with the author) and <name>.pub (for those who trust it).
// Existing files are never overwritten.
func GenerateKey(dir, name string) (public ed25519.PublicKey, err error) {
	if !signerSyntax().MatchString(name) {
		return nil, fmt.Errorf("key pair %q: use up to 71 letters, digits and . _ - for the name", name)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key pair: %w", err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("key pair: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("key pair: %w", err)
	}
	base := filepath.Join(dir, name)
	if _, err := os.Lstat(base + publicSuffix); err == nil {
		return nil, fmt.Errorf("key pair: %s exists: choose another name or remove it", base+publicSuffix)
	}
	if err := writeNew(base+".key", 0o600, "PRIVATE KEY", privateDER); err != nil {
		return nil, err
	}
	if err := writeNew(base+publicSuffix, 0o644, "PUBLIC KEY", publicDER); err != nil {
		return nil, err
	}
	return public, nil
}

func writeNew(file string, mode fs.FileMode, blockType string, der []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("key pair: %w: choose another name or remove it", err)
	}
	if err != nil {
		return fmt.Errorf("key pair: %w", err)
	}
	err = pem.Encode(f, &pem.Block{Type: blockType, Bytes: der})
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("key pair: %w", err)
	}
	return nil
}
