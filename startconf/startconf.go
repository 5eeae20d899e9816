// Package startconf is the start configuration of the enclave: who may call it, whose ceiling it obeys, in which trust domain
// and for how long its visas live. The enclave reads it once, before it serves, and names its hash in every visa; the parent
// writes one for the enclave that it starts itself in development. The format lives here, so that both agree and neither
// imports the other.
//
// The file is called ibev.conf: lines `key = value`, # starts a comment line.
package startconf

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// FileName is the name of the file when a folder is given.
const FileName = "ibev.conf"

// Bounds and defaults.
const (
	MaxSize            = 64 << 10 // bytes of the file
	MaxKeys            = 16       // of each kind
	DefaultTrustDomain = "raypher.local"
	MaxTrustDomain     = 255 // bytes, of the SPIFFE ID standard
	DefaultTTL         = 300 // seconds
	MinTTL             = 10  // seconds; shorter ones would end before they can be renewed
	MaxTTL             = 3600
	DefaultRate        = 50_000 // visas a second, all agents together
	DefaultAgentRate   = 200    // visas a second for one subject; bursts of five times as many
	MaxRate            = 1_000_000
)

// KeyHash is the SHA-256 of a public key in PKIX DER form.
type KeyHash [sha256.Size]byte

// String is the form that the file uses: sha256:<64 hexadecimal digits>.
func (h KeyHash) String() string { return "sha256:" + hex.EncodeToString(h[:]) }

// ParseKeyHash reads the form of String.
func ParseKeyHash(s string) (KeyHash, error) {
	var h KeyHash
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(digits) != 2*len(h) {
		return h, fmt.Errorf("%.100q is not sha256:<64 hexadecimal digits>", s)
	}
	if _, err := hex.Decode(h[:], []byte(digits)); err != nil {
		return h, fmt.Errorf("%.100q is not sha256:<64 hexadecimal digits>", s)
	}
	return h, nil
}

// Configuration is the start configuration. The zero value of a field that has a default means the default.
type Configuration struct {
	TrustDomain  string    `cbor:"1,keyasint"` // trust_domain: of the SPIFFE IDs in visas
	TTLSeconds   uint32    `cbor:"2,keyasint"` // ttl_seconds: lifetime of visas
	CallerKeys   []KeyHash `cbor:"3,keyasint"` // caller_key: TLS keys that may call
	OperatorKeys [][]byte  `cbor:"4,keyasint"` // operator_key: Ed25519 or P-256, PKIX DER, that may sign ceilings
	Predecessors []KeyHash `cbor:"5,keyasint"` // predecessor: signing keys whose journal this enclave may continue
	Rate         uint32    `cbor:"6,keyasint"` // visas_per_second
	AgentRate    uint32    `cbor:"7,keyasint"` // visas_per_second_per_agent
	// NitroRoots (nitro_root) are the SHA-256 of roots of attestation, in DER, that this enclave believes besides AWS's when it follows the
	// journal of its own image: those of laboratories.
	NitroRoots []KeyHash `cbor:"8,keyasint,omitempty"`
	// The controller that the enclave is attested to; all three or none.
	Controller     string    `cbor:"9,keyasint,omitempty"`  // controller: host:port
	ControllerKeys []KeyHash `cbor:"10,keyasint,omitempty"` // controller_key: of its TLS certificate
	ResultKeys     [][]byte  `cbor:"11,keyasint,omitempty"` // controller_result_key: P-256, PKIX DER, that sign attestation results
	// KMSSecrets (kms_secret) are what the enclave gets from AWS KMS; tier nitro only.
	KMSSecrets []KMSSecret `cbor:"12,keyasint,omitempty"`
}

// Lifetime is TTLSeconds as a duration.
func (c *Configuration) Lifetime() time.Duration { return time.Duration(c.TTLSeconds) * time.Second }

// Hash identifies the configuration: the SHA-256 of its deterministic CBOR form (RFC 8949 section 4.2.1), in which lists
// are sorted. Comments and the order of lines do not change it.
func (c *Configuration) Hash() [sha256.Size]byte {
	sorted := *c
	sorted.CallerKeys = sortedHashes(c.CallerKeys)
	sorted.Predecessors = sortedHashes(c.Predecessors)
	sorted.NitroRoots = sortedHashes(c.NitroRoots)
	sorted.ControllerKeys = sortedHashes(c.ControllerKeys)
	sorted.OperatorKeys = sortedKeys(c.OperatorKeys)
	sorted.ResultKeys = sortedKeys(c.ResultKeys)
	sorted.KMSSecrets = sortedKMSSecrets(c.KMSSecrets)
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // constant options
	}
	data, err := mode.Marshal(sorted)
	if err != nil {
		panic(err) // a struct of numbers, strings and bytes always encodes
	}
	return sha256.Sum256(data)
}

func sortedHashes(in []KeyHash) []KeyHash {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b KeyHash) int { return bytes.Compare(a[:], b[:]) })
	return out
}

func sortedKeys(in [][]byte) [][]byte {
	out := slices.Clone(in)
	slices.SortFunc(out, bytes.Compare)
	return out
}

// Defaults fills in what the file left out.
func (c *Configuration) Defaults() {
	if c.TrustDomain == "" {
		c.TrustDomain = DefaultTrustDomain
	}
	if c.TTLSeconds == 0 {
		c.TTLSeconds = DefaultTTL
	}
	if c.Rate == 0 {
		c.Rate = DefaultRate
	}
	if c.AgentRate == 0 {
		c.AgentRate = DefaultAgentRate
	}
}

// Parse reads a configuration. name is only for messages. The error joins every mistake, each as name:line: what: fix.
// Defaults are filled in.
func Parse(name string, text []byte) (*Configuration, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%s: %d bytes, at most %d", name, len(text), MaxSize)
	}
	var (
		c        Configuration
		problems []error
		seen     = map[string]int{}
	)
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "" || value == "" {
			problems = append(problems, fmt.Errorf("%s:%d: %.60q is not `key = value`", name, i+1, line))
			continue
		}
		first, again := seen[key]
		err := c.set(key, value)
		if err == nil && again && !repeatable(key) {
			err = fmt.Errorf("%s stands already in line %d: keep one", key, first)
		}
		if !again {
			seen[key] = i + 1
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s:%d: %w", name, i+1, err))
		}
	}
	if err := c.checkController(); err != nil && len(problems) == 0 {
		problems = append(problems, fmt.Errorf("%s: %w", name, err))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	c.Defaults()
	return &c, nil
}

func repeatable(key string) bool {
	return slices.Contains([]string{"caller_key", "operator_key", "predecessor", "nitro_root", "controller_key", "controller_result_key", "kms_secret"}, key)
}

func (c *Configuration) set(key, value string) (err error) {
	switch key {
	case "trust_domain":
		if err := CheckTrustDomain(value); err != nil {
			return fmt.Errorf("trust_domain %w", err)
		}
		c.TrustDomain = value
	case "ttl_seconds":
		c.TTLSeconds, err = number(key, value, MinTTL, MaxTTL)
	case "visas_per_second":
		c.Rate, err = number(key, value, 1, MaxRate)
	case "visas_per_second_per_agent":
		c.AgentRate, err = number(key, value, 1, MaxRate)
	case "caller_key":
		c.CallerKeys, err = addHash(key, c.CallerKeys, value)
	case "predecessor":
		c.Predecessors, err = addHash(key, c.Predecessors, value)
	case "nitro_root":
		c.NitroRoots, err = addHash(key, c.NitroRoots, value)
	case "operator_key":
		c.OperatorKeys, err = addKey(key, c.OperatorKeys, value, parseOperatorKey)
	case "controller":
		c.Controller, err = value, checkAddress(value)
	case "controller_key":
		c.ControllerKeys, err = addHash(key, c.ControllerKeys, value)
	case "controller_result_key":
		c.ResultKeys, err = addKey(key, c.ResultKeys, value, parseResultKey)
	case "kms_secret":
		c.KMSSecrets, err = addKMSSecret(c.KMSSecrets, value)
	default:
		return fmt.Errorf("unknown key %.60q: use trust_domain, ttl_seconds, caller_key, operator_key, predecessor, nitro_root, controller, controller_key, controller_result_key, kms_secret, visas_per_second or visas_per_second_per_agent", key)
	}
	return err
}

func number(key, value string, low, high uint64) (uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%s %.60q: use a number from %d to %d", key, value, low, high)
	}
	return uint32(n), nil
}

func addHash(key string, list []KeyHash, value string) ([]KeyHash, error) {
	h, err := ParseKeyHash(value)
	switch {
	case err != nil:
		return list, fmt.Errorf("%s: %w", key, err)
	case slices.Contains(list, h):
		return list, fmt.Errorf("%s: the same key stands twice: keep one", key)
	case len(list) == MaxKeys:
		return list, fmt.Errorf("%s: more than %d", key, MaxKeys)
	}
	return append(list, h), nil
}

func addKey(key string, list [][]byte, value string, parse func(string) ([]byte, error)) ([][]byte, error) {
	der, err := parse(value)
	switch {
	case err != nil:
		return list, fmt.Errorf("%s: %w", key, err)
	case slices.ContainsFunc(list, func(k []byte) bool { return bytes.Equal(k, der) }):
		return list, fmt.Errorf("%s: the same key stands twice: keep one", key)
	case len(list) == MaxKeys:
		return list, fmt.Errorf("%s: more than %d", key, MaxKeys)
	}
	return append(list, der), nil
}

// parseOperatorKey reads base64 of PKIX DER, Ed25519 or P-256, and returns the DER.
func parseOperatorKey(value string) ([]byte, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, fmt.Errorf("not base64: use the line that `raypher ceiling keygen` prints")
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: use the line that `raypher ceiling keygen` prints", err)
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("an ECDSA key must be on P-256")
		}
	default:
		return nil, fmt.Errorf("%T: use Ed25519 or ECDSA on P-256", key)
	}
	return der, nil
}

// CheckTrustDomain holds that a text is a trust domain.
func CheckTrustDomain(s string) error {
	if !validTrustDomain(s) {
		return fmt.Errorf("%.60q: use lower-case letters, digits, '.', '-' and '_', at most %d", s, MaxTrustDomain)
	}
	return nil
}

// validTrustDomain follows the SPIFFE ID standard, section 2.1.
func validTrustDomain(s string) bool {
	if s == "" || len(s) > MaxTrustDomain {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// Read reads the file at path, or FileName in it when path is a folder. A file that others than its owner may write is
// refused: whoever writes it decides who calls the enclave.
func Read(path string) (*Configuration, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, FileName)
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("start configuration: %w: make one with at least the line that `raypherd --caller-key` prints", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read start configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read start configuration: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("start configuration %s: not a regular file", path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("start configuration %s: mode %04o lets others write it: chmod go-w", path, info.Mode().Perm())
	}
	if info.Size() > MaxSize {
		return nil, fmt.Errorf("start configuration %s: %d bytes, at most %d", path, info.Size(), MaxSize)
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("read start configuration %s: %w", path, err)
	}
	return Parse(path, text)
}

// Format writes c in the form that Parse reads.
func (c *Configuration) Format() []byte {
	var b bytes.Buffer
	b.WriteString("# Start configuration of raypher-enclave; docs/protocol.md lists the keys.\n")
	fmt.Fprintf(&b, "trust_domain = %s\n", c.TrustDomain)
	fmt.Fprintf(&b, "ttl_seconds = %d\n", c.TTLSeconds)
	fmt.Fprintf(&b, "visas_per_second = %d\n", c.Rate)
	fmt.Fprintf(&b, "visas_per_second_per_agent = %d\n", c.AgentRate)
	for _, k := range c.CallerKeys {
		fmt.Fprintf(&b, "caller_key = %s\n", k)
	}
	for _, k := range c.OperatorKeys {
		fmt.Fprintf(&b, "operator_key = %s\n", base64.StdEncoding.EncodeToString(k))
	}
	for _, k := range c.Predecessors {
		fmt.Fprintf(&b, "predecessor = %s\n", k)
	}
	for _, k := range c.NitroRoots {
		fmt.Fprintf(&b, "nitro_root = %s\n", k)
	}
	if c.Controller != "" {
		fmt.Fprintf(&b, "controller = %s\n", c.Controller)
	}
	for _, k := range c.ControllerKeys {
		fmt.Fprintf(&b, "controller_key = %s\n", k)
	}
	for _, k := range c.ResultKeys {
		fmt.Fprintf(&b, "controller_result_key = %s\n", base64.StdEncoding.EncodeToString(k))
	}
	for i := range c.KMSSecrets {
		fmt.Fprintf(&b, "kms_secret = %s\n", &c.KMSSecrets[i])
	}
	return b.Bytes()
}

// Write stores c as FileName in folder dir, mode 0644, whole or not at all.
func Write(dir string, c *Configuration) error {
	complete := *c
	complete.Defaults()
	f, err := os.CreateTemp(dir, FileName+".new-*")
	if err != nil {
		return fmt.Errorf("write start configuration: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(complete.Format())
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, FileName))
	}
	if err != nil {
		return fmt.Errorf("write start configuration: %w", err)
	}
	return nil
}

// Differences names the keys of the file in which two configurations differ, apart from caller_key, by which hosts are told apart.
func (c *Configuration) Differences(other *Configuration) []string {
	a, b := *c, *other
	a.Defaults()
	b.Defaults()
	var names []string
	for _, key := range []struct {
		name string
		take func(into, from *Configuration)
	}{
		{"trust_domain", func(into, from *Configuration) { into.TrustDomain = from.TrustDomain }},
		{"ttl_seconds", func(into, from *Configuration) { into.TTLSeconds = from.TTLSeconds }},
		{"operator_key", func(into, from *Configuration) { into.OperatorKeys = from.OperatorKeys }},
		{"predecessor", func(into, from *Configuration) { into.Predecessors = from.Predecessors }},
		{"visas_per_second", func(into, from *Configuration) { into.Rate = from.Rate }},
		{"visas_per_second_per_agent", func(into, from *Configuration) { into.AgentRate = from.AgentRate }},
		{"nitro_root", func(into, from *Configuration) { into.NitroRoots = from.NitroRoots }},
		{"controller", func(into, from *Configuration) { into.Controller = from.Controller }},
		{"controller_key", func(into, from *Configuration) { into.ControllerKeys = from.ControllerKeys }},
		{"controller_result_key", func(into, from *Configuration) { into.ResultKeys = from.ResultKeys }},
		{"kms_secret", func(into, from *Configuration) { into.KMSSecrets = from.KMSSecrets }},
	} {
		var one, two Configuration // nothing but this key
		key.take(&one, &a)
		key.take(&two, &b)
		if one.Hash() != two.Hash() {
			names = append(names, key.name)
		}
	}
	return names
}
