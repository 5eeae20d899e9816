package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/controller/attestation"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/secret"
	"github.com/raypher/raypher/startconf"
)

// Roots are certificates that are trusted as they are.
type Roots []*x509.Certificate

// keys are the controller's own.
type keys struct {
	certificate tls.Certificate
	tls         startconf.KeyHash
	results     *attestation.Keys
	secrets     *secret.Vault
}

// openKeys reads the keys. A controller that is alone, with a SQLite database, makes what is missing at its first start; replicas of one
// PostgreSQL must have the same keys, so that each that is missing is an error.
func openKeys(o *Options, alone bool) (*keys, error) {
	k := &keys{results: &attestation.Keys{Former: o.VerifyKeys}}
	tlsKey, err := o.openKey("--tls-key", o.TLSKey, TLSKeyFile, alone)
	if err != nil {
		return nil, err
	}
	if k.certificate, k.tls, err = peer.Certificate(tlsKey, "raypher-controller"); err != nil {
		return nil, err
	}
	if k.results.Signing, err = o.openKey("--signing-key", o.SigningKey, SignKeyFile, alone); err != nil {
		return nil, err
	}
	path := o.SecretsKey
	if path == "" {
		path = filepath.Join(o.State, SecretsFile)
	}
	if alone {
		made, err := secret.MakeKey(path)
		if err != nil {
			return nil, fmt.Errorf("--secrets-key: %w", err)
		}
		if made {
			o.Log.Warn("made a key of secrets: keep a copy, without it no secret in the database can be read", "file", path)
		}
	}
	if k.secrets, err = secret.OpenVault(path); err != nil {
		return nil, fmt.Errorf("--secrets-key: %w", err)
	}
	return k, nil
}

func (o *Options) openKey(flag, path, name string, create bool) (*ecdsa.PrivateKey, error) {
	if path == "" {
		path = filepath.Join(o.State, name)
	}
	key, made, err := peer.OpenKey(path, create)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return nil, fmt.Errorf("%s: %w: replicas of one PostgreSQL share it: make it once with `raypher-controller keygen %s` and copy it to each", flag, err, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if made {
		o.Log.Info("made a key", "file", path)
	}
	return key, nil
}

func openTPMRoots(dir string) (*tpm.Roots, error) {
	if dir == "" {
		return nil, nil
	}
	roots, err := tpm.LoadRoots(dir)
	if err != nil {
		return nil, fmt.Errorf("--tpm-roots: %w", err)
	}
	return roots, nil
}

// ReadPublic reads a public key in PEM and returns its PKIX DER.
func ReadPublic(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s: no PEM block of type PUBLIC KEY: keygen writes one beside a key, as %s", path, strings.TrimSuffix(path, ".pub")+".pub")
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return block.Bytes, nil
}

// ParseP256 reads a P-256 key from PKIX DER.
func ParseP256(der []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("not ECDSA on P-256")
	}
	return key, nil
}

func hashOf(der []byte) startconf.KeyHash { return sha256.Sum256(der) }
