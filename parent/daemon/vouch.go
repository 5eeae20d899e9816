package daemon

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/startconf"
)

// maxPEM bounds files of certificates and keys, in bytes.
const maxPEM = 1 << 20

// testRoot is what log and status say of an enclave that is believed under another root than AWS's.
const testRoot = "TEST ROOT: the enclave's documents are believed under the root in %s, and not under AWS's: nothing of it need be an enclave"

// vouch reads what an enclave that runs already has to show.
func (o Options) vouch() (v *link.Vouch, roots []startconf.KeyHash, err error) {
	v = &link.Vouch{Tier: o.EnclaveTier}
	if o.NitroRoot != "" {
		text, err := readFile(o.NitroRoot, maxPEM)
		if err == nil {
			v.Roots, err = nitro.ParseRoots(text)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("--nitro-root: %w", err)
		}
		roots = hashesOf(v.Roots)
	}
	if o.Measurements == "" {
		return v, roots, nil
	}
	text, err := readFile(o.Measurements, golden.MaxFile)
	if err == nil && golden.Signed(text) {
		v.Golden, err = o.golden(text)
	} else if err == nil {
		v.PCRs, err = nitro.ParseMeasurements(text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("--enclave-measurements %s: %w", o.Measurements, err)
	}
	return v, roots, nil
}

func hashesOf(roots []*x509.Certificate) []startconf.KeyHash {
	hashes := make([]startconf.KeyHash, len(roots))
	for i, root := range roots {
		hashes[i] = sha256.Sum256(root.Raw)
	}
	return hashes
}

// golden opens a signed list.
func (o Options) golden(text []byte) (*golden.List, error) {
	if len(o.MeasurementKeys) == 0 {
		return nil, errors.New("it is a signed list: name the public key that may sign it with --enclave-measurements-key")
	}
	var keys [][]byte
	for _, name := range o.MeasurementKeys {
		key, err := readFile(name, maxPEM)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(key)
		if block == nil || block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("%s: no PEM block of type PUBLIC KEY", name)
		}
		keys = append(keys, block.Bytes)
	}
	return golden.Open(text, keys)
}

// readFile reads a regular file of at most limit bytes, also through a symbolic link.
func readFile(path string, limit int64) ([]byte, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}
