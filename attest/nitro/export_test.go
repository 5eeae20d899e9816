package nitro

import (
	"crypto/x509"
	"time"

	"github.com/hf/nitrite"
)

// AskNitrite is the second opinion alone.
func AskNitrite(raw []byte, root *x509.Certificate, at time.Time) error {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	_, err := askNitrite(raw, nitrite.VerifyOptions{Roots: roots, CurrentTime: at})
	return err
}

// Payload is what the signature of a document covers.
func Payload(raw []byte) ([]byte, error) {
	s, err := openSign1(raw)
	if err != nil {
		return nil, err
	}
	return s.payload, nil
}

// ReadPayload reads a payload as Verify does.
func ReadPayload(payload []byte) (*Document, error) {
	s := &sealed{payload: payload}
	err := s.openPayload()
	return &s.document, err
}

// ChainCount is the number of chains that a verifier knows.
func (v *Verifier) ChainCount() int {
	v.chains.mu.Lock()
	defer v.chains.mu.Unlock()
	return v.chains.recent.Len()
}

// LimitChains makes the cache of a new verifier small.
func (v *Verifier) LimitChains(n int) { v.chains = newChainCache(n) }

// CompareWith tells which part of a document nitrite reads differently, after change was applied to what it read.
func CompareWith(raw []byte, root *x509.Certificate, at time.Time, change func(*nitrite.Result)) (string, error) {
	s, err := unseal(raw)
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	other, err := askNitrite(raw, nitrite.VerifyOptions{Roots: roots, CurrentTime: at})
	if err != nil {
		return "", err
	}
	change(other)
	return s.differsFrom(other), nil
}
