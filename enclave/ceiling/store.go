package ceiling

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/policy"
)

// Names in the state folder.
const (
	BundleFile   = "ceiling.cose"
	FloorFile    = "ceiling.version" // the highest version ever installed, in decimal
	OperatorFile = "operator.key"    // development only: PKCS #8 in PEM
)

// ErrNone: no ceiling is installed, so nothing is minted.
var ErrNone = errors.New("no ceiling is installed: sign one with `raypher ceiling sign` and install it with `raypher ceiling install`")

// Store holds the ceiling in force and keeps it in the state folder. It is safe for concurrent use.
//
// The floor of versions survives restarts as far as the state folder does: on tier software, whoever can write that folder
// can put an older ceiling back.
type Store struct {
	dir         string
	trustDomain string
	keys        [][]byte

	mu      sync.Mutex // held while installing
	state   sync.RWMutex
	current *Ceiling
	floor   uint64
}

// OpenStore reads the installed ceiling, if there is one. A bundle in the folder that does not verify is an error: it was
// changed, or the operator keys were; the message says how to go on.
func OpenStore(dir, trustDomain string, operatorKeys [][]byte) (*Store, error) {
	s := &Store{dir: dir, trustDomain: trustDomain, keys: operatorKeys}
	floor, err := readFloor(filepath.Join(dir, FloorFile))
	if err != nil {
		return nil, err
	}
	s.floor = floor
	path := filepath.Join(dir, BundleFile)
	bundle, err := statefile.Read(path, MaxBundle)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ceiling: %w", err)
	}
	c, err := s.open(bundle)
	if err != nil {
		return nil, fmt.Errorf("installed ceiling %s: %w; remove the file to start without a ceiling, then install a newer one", path, err)
	}
	if c.Version < s.floor {
		return nil, fmt.Errorf("installed ceiling %s: %w: it is version %d, version %d was installed before: remove the file and install a newer one", path, ErrVersion, c.Version, s.floor)
	}
	s.current, s.floor = c, c.Version
	return s, nil
}

// Current is the ceiling in force, or ErrNone.
func (s *Store) Current() (*Ceiling, error) {
	s.state.RLock()
	defer s.state.RUnlock()
	if s.current == nil {
		return nil, ErrNone
	}
	return s.current, nil
}

// Install verifies a bundle, makes it durable, lets record put it on record, and puts it in force. Installing the ceiling
// that is in force again changes nothing. record may be nil.
func (s *Store) Install(bundle []byte, record func(*Ceiling) error) (*Ceiling, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.open(bundle)
	if err != nil {
		return nil, err
	}
	if s.current != nil && c.Hash == s.current.Hash {
		return s.current, nil
	}
	// The version at the floor may come again only while none is in force: then an earlier installation stopped halfway,
	// or the file was removed by hand.
	if c.Version < s.floor || s.current != nil && c.Version <= s.current.Version {
		return nil, fmt.Errorf("%w: the bundle is version %d, the last one was %d: raise its version and sign it again", ErrVersion, c.Version, s.floor)
	}
	if err := statefile.Write(s.dir, BundleFile, bundle); err != nil {
		return nil, fmt.Errorf("install ceiling: %w", err)
	}
	if err := statefile.Write(s.dir, FloorFile, []byte(strconv.FormatUint(c.Version, 10)+"\n")); err != nil {
		return nil, fmt.Errorf("install ceiling: %w", err)
	}
	if record != nil {
		if err := record(c); err != nil {
			return nil, fmt.Errorf("install ceiling: stored, not yet in force: %w: install it again", err)
		}
	}
	s.state.Lock()
	defer s.state.Unlock()
	s.current, s.floor = c, c.Version
	return c, nil
}

func (s *Store) open(bundle []byte) (*Ceiling, error) {
	c, err := Open(bundle, s.keys)
	if err != nil {
		return nil, err
	}
	if c.TrustDomain != s.trustDomain {
		return nil, fmt.Errorf("%w: it is for trust domain %q, this enclave serves %q", ErrSignature, c.TrustDomain, s.trustDomain)
	}
	return c, nil
}

func readFloor(path string) (uint64, error) {
	text, err := statefile.Read(path, 32)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read ceiling version: %w", err)
	}
	floor, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("ceiling version %s: not a number: write the version of the last installed ceiling into it", path)
	}
	return floor, nil
}

// DevelopmentKey reads the operator key of development from the state folder, or makes one. made says which.
func DevelopmentKey(dir string) (key ed25519.PrivateKey, made bool, err error) {
	path := filepath.Join(dir, OperatorFile)
	text, err := statefile.Read(path, 4096)
	if errors.Is(err, os.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, false, fmt.Errorf("make operator key: %w", err)
		}
		text, err := EncodeKey(key)
		if err != nil {
			return nil, false, err
		}
		if err := statefile.Write(dir, OperatorFile, text); err != nil {
			return nil, false, fmt.Errorf("make operator key: %w", err)
		}
		return key, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read operator key: %w", err)
	}
	signer, err := ParseKey(text)
	if err != nil {
		return nil, false, fmt.Errorf("operator key %s: %w", path, err)
	}
	key, ok := signer.(ed25519.PrivateKey)
	if !ok {
		return nil, false, fmt.Errorf("operator key %s: not Ed25519", path)
	}
	return key, false, nil
}

// EncodeKey writes an operator's private key as PKCS #8 in PEM.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode operator key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads an operator's private key: PKCS #8 in PEM, Ed25519 or ECDSA on P-256.
func ParseKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		return nil, errors.New("not one PEM block \"PRIVATE KEY\" (PKCS #8)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T cannot sign", key)
	}
	return signer, nil
}

// Development is the ceiling of development: it permits everything to everyone.
func Development(trustDomain string) (*Ceiling, error) {
	reserved := policy.ReservedRanges()
	rules := make([]string, len(reserved))
	for i, r := range reserved {
		rules[i] = strconv.Quote(r.Prefix.String())
	}
	permit, err := policy.Parse("development ceiling", []byte(`
mode: permissive
network:
  default_action: allow
  egress: ["0.0.0.0/0", "::/0", `+strings.Join(rules, ", ")+`]
  listen: ["0.0.0.0", "::"]
  unix: ["/**"]
  unmetered: allow
syscalls: {mq_open: allow, mq_unlink: allow, msgctl: allow, msgget: allow, msgrcv: allow, msgsnd: allow, semctl: allow,
  semget: allow, semop: allow, semtimedop: allow, setsockopt: allow, shmat: allow, shmctl: allow, shmget: allow}
`))
	if err != nil {
		return nil, err
	}
	return &Ceiling{Version: 1, TrustDomain: trustDomain, Grants: []*Grant{{Namespace: "*", Agents: []string{"*"}, TLSKeys: true, Permit: permit}}}, nil
}

// PublicKey is the public half of an operator key as PKIX DER, the form that start configurations hold.
func PublicKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode operator key: %w", err)
	}
	return der, nil
}

// Floor is the highest version that was ever installed.
func (s *Store) Floor() uint64 {
	s.state.RLock()
	defer s.state.RUnlock()
	return s.floor
}
