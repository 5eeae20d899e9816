package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/startconf"
)

// Names of files in the link's folder.
const (
	CallerFile = "parent.key"  // PKCS #8 in PEM, 0600
	PinFile    = "enclave.pin" // sha256:<hex> of the enclave's signing key, and in further lines of those that it replaced, newest first
)

// Caller is the key with which the parent proves to the enclave who it is.
type Caller struct {
	hash        startconf.KeyHash
	certificate tls.Certificate
}

// Hash is what the enclave's start configuration names as caller_key.
func (c *Caller) Hash() startconf.KeyHash { return c.hash }

// Certificate is the key as TLS takes it.
func (c *Caller) Certificate() tls.Certificate { return c.certificate }

// OpenCaller reads the key in folder dir, or makes one when there is none. The folder must exist and be private.
func OpenCaller(dir string) (*Caller, error) {
	path := filepath.Join(dir, CallerFile)
	key, err := readCaller(path)
	if errors.Is(err, os.ErrNotExist) {
		if err = makeCaller(path); err == nil {
			key, err = readCaller(path)
		}
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("caller key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "raypherd"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("caller key: %w", err)
	}
	return &Caller{hash: sha256.Sum256(der), certificate: tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: key}}, nil
}

func readCaller(path string) (*ecdsa.PrivateKey, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read caller key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read caller key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() > 4096 {
		return nil, fmt.Errorf("caller key %s: not a small regular file that only its owner can read: remove it, a new one is made, and name its hash to the enclave", path)
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("read caller key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("caller key %s: not PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("caller key %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("caller key %s: not ECDSA on P-256", path)
	}
	return key, nil
}

func makeCaller(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make caller key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make caller key: %w", err)
	}
	if _, err := statefile.Create(filepath.Dir(path), filepath.Base(path), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return fmt.Errorf("write caller key: %w", err)
	}
	return nil
}

// pin is the enclave key that is expected: given, stored, or the first one that answers.
type pin struct {
	file string

	mu     sync.Mutex
	known  *[32]byte
	before [][32]byte // keys that it replaced, newest first
}

// maxReplaced is how many replaced keys are remembered. Agents that began under an older one do not outlive raypherd.
const maxReplaced = 15

// Pins reads a file of the enclave's key: that key, and those that it replaced, newest first. Whoever removes the file has all of them
// forgotten.
func Pins(file string) ([][32]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the enclave's key: %w", err)
	}
	var keys [][32]byte
	for line := range strings.Lines(string(text)) {
		hash, err := startconf.ParseKeyHash(strings.TrimSpace(line))
		if err != nil || len(keys) > maxReplaced {
			return nil, fmt.Errorf("%s: not 1 to %d lines of sha256:<hexadecimal>: %w", file, 1+maxReplaced, err)
		}
		keys = append(keys, hash)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: empty: remove it if the next enclave that answers is to be taken", file)
	}
	return keys, nil
}

// content is the file's.
func content(keys [][32]byte) []byte {
	var b []byte
	for _, key := range keys {
		b = append(append(b, startconf.KeyHash(key).String()...), '\n')
	}
	return b
}

func openPin(given *[32]byte, file string) (*pin, error) {
	if given != nil {
		return &pin{known: given}, nil
	}
	if file == "" {
		return nil, errors.New("link: neither the enclave's key nor a file to remember it in was given")
	}
	keys, err := Pins(file)
	if errors.Is(err, os.ErrNotExist) {
		return &pin{file: file}, nil
	}
	if err != nil {
		return nil, err
	}
	return &pin{file: file, known: &keys[0], before: keys[1:]}, nil
}

func (p *pin) hash() *[32]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known
}

// check holds a key against the pin, or makes it the pin.
func (p *pin) check(hash [32]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known != nil {
		if *p.known != hash {
			return fmt.Errorf("%w: it signs with %s, expected %s", ErrPeer, startconf.KeyHash(hash), startconf.KeyHash(*p.known))
		}
		return nil
	}
	made, err := statefile.Create(filepath.Dir(p.file), filepath.Base(p.file), content([][32]byte{hash}))
	if err != nil {
		return fmt.Errorf("remember the enclave's key: %w", err)
	}
	if !made {
		return fmt.Errorf("%w: %s was written meanwhile: start again", ErrPeer, p.file)
	}
	p.known = &hash
	return nil
}

// replace makes a key the pin, whatever was there before, and remembers that.
func (p *pin) replace(hash [32]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known != nil && *p.known == hash {
		return nil
	}
	before := slices.DeleteFunc(slices.Clone(p.before), func(key [32]byte) bool { return key == hash })
	if p.known != nil {
		before = slices.Insert(before, 0, *p.known)
	}
	before = before[:min(len(before), maxReplaced)]
	if p.file != "" {
		if err := statefile.Write(filepath.Dir(p.file), filepath.Base(p.file), content(slices.Insert(slices.Clone(before), 0, hash))); err != nil {
			return fmt.Errorf("remember the enclave's key: %w", err)
		}
	}
	p.known, p.before = &hash, before
	return nil
}

// enclaveKey checks that the key of the handshake was certified by an enclave's signing key, and returns the SHA-256 of that one.
func enclaveKey(state tls.ConnectionState) (hash [32]byte, err error) {
	chain := state.PeerCertificates
	if len(chain) != 2 {
		return hash, fmt.Errorf("%w: it shows %d certificates, an enclave shows 2", ErrPeer, len(chain))
	}
	leaf, issuer := chain[0], chain[1]
	key, ok := issuer.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return hash, fmt.Errorf("%w: its key is not on P-256", ErrPeer)
	}
	if err := leaf.CheckSignatureFrom(issuer); err != nil {
		return hash, fmt.Errorf("%w: its certificate: %v", ErrPeer, err)
	}
	return sha256.Sum256(issuer.RawSubjectPublicKeyInfo), nil
}
