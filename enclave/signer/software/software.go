// Package software is the signer of the tier `software`: a P-256 key in a file of the state folder. It is for development
// and for hosts without a TPM. It protects nothing: whoever can read the file, or the memory of the process, has the key.
package software

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/journal"
)

// KeyFile is the name of the key in the state folder: PKCS #8 in PEM, mode 0600, owned by the user of the process.
const KeyFile = "signing.key"

const (
	pemType    = "PRIVATE KEY"
	maxKeyFile = 4096 // bytes; a P-256 key has about 240
)

// Key is the software signer.
type Key struct {
	dir     string
	mu      sync.RWMutex // held for reading while signing; Close waits
	private *ecdsa.PrivateKey
	public  *ecdsa.PublicKey
	further map[string]*further
	now     func() time.Time
}

var _ signer.Keyring = (*Key)(nil)

// Open reads the key in folder dir, or makes one when there is none; made says which. The file appears whole or not at all,
// and of two processes that start at once one wins and both use its key.
func Open(dir string) (key *Key, made bool, err error) {
	key, made, err = openFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, false, err
	}
	key.dir, key.further = dir, make(map[string]*further)
	return key, made, nil
}

func openFile(path string) (key *Key, made bool, err error) {
	private, err := read(path)
	if errors.Is(err, os.ErrNotExist) {
		made, err = create(path)
		if err == nil {
			private, err = read(path)
		}
	}
	if err != nil {
		return nil, false, err
	}
	return &Key{private: private, public: &private.PublicKey, now: time.Now}, made, nil
}

// read loads a key from a file that nobody else could have read or written.
func read(path string) (*ecdsa.PrivateKey, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("signing key %s: not a regular file: remove it, a new key is made at the next start", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("signing key %s: mode %04o lets others read it: treat the key as copied, remove it, a new one is made at the next start", path, perm)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("signing key %s: owned by uid %d, this process is uid %d: start as the owner, or use another state folder", path, st.Uid, os.Geteuid())
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("signing key %s: %d bytes, at most %d: not a P-256 key", path, info.Size(), maxKeyFile)
	}
	text := make([]byte, info.Size())
	defer clear(text)
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("read signing key %s: %w", path, err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != pemType || len(rest) != 0 {
		return nil, fmt.Errorf("signing key %s: not one PEM block %q: restore it, or remove it for a new key", path, pemType)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("signing key %s: not an ECDSA key on P-256", path)
	}
	return private, nil
}

// create makes a key. made is false when there is one already.
func create(path string) (made bool, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, fmt.Errorf("make signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return false, fmt.Errorf("make signing key: %w", err)
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	defer clear(text)

	made, err = statefile.Create(filepath.Dir(path), filepath.Base(path), text)
	if err != nil {
		return false, fmt.Errorf("write signing key: %w", err)
	}
	return made, nil
}

// Public implements signer.Signer.
func (k *Key) Public() *ecdsa.PublicKey { return k.public }

// Tier implements signer.Signer.
func (k *Key) Tier() string { return journal.TierSoftware }

// Sign implements signer.Signer; about 20 microseconds.
func (k *Key) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if len(digest) != signer.DigestSize {
		return nil, fmt.Errorf("sign: digest of %d bytes: %w", len(digest), signer.ErrInput)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.private == nil {
		return nil, fmt.Errorf("sign: %w", signer.ErrClosed)
	}
	r, s, err := ecdsa.Sign(rand.Reader, k.private, digest)
	if err != nil {
		return nil, fmt.Errorf("sign: %w: %v", signer.ErrDevice, err)
	}
	signature := make([]byte, signer.SignatureSize)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signature, nil
}

// Evidence implements signer.Signer: a statement signed by the key itself, which says that it protects nothing.
func (k *Key) Evidence(ctx context.Context, nonce []byte, binding signer.Binding) (*journal.KeyEvidence, error) {
	if len(nonce) > signer.MaxNonce {
		return nil, fmt.Errorf("evidence: nonce of %d bytes: %w", len(nonce), signer.ErrInput)
	}
	return journal.SignStatement(signer.ForJournal(ctx, k), binding.Epoch, binding.Configuration, nonce, k.now())
}

// Close implements signer.Signer. The runtime may have copied the key; nothing promises that memory holds no trace.
func (k *Key) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.private = nil
	for _, f := range k.further {
		f.Key.Close()
	}
	return nil
}

// Key implements signer.Keyring: each key is a file of its own, as little protected as the first.
func (k *Key) Key(ctx context.Context, name string) (signer.Signer, error) {
	if err := signer.CheckName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("key %q: %w", name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.private == nil {
		return nil, fmt.Errorf("key %q: %w", name, signer.ErrClosed)
	}
	if f := k.further[name]; f != nil {
		return f, nil
	}
	path := signer.KeyPath(k.dir, name)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		if err := signer.RoomForKey(k.dir); err != nil {
			return nil, err
		}
	}
	key, _, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", name, err)
	}
	k.further[name] = &further{key}
	return k.further[name], nil
}

// further is a further key, which ends with its keyring.
type further struct{ *Key }

// Close implements signer.Signer.
func (further) Close() error { return nil }
