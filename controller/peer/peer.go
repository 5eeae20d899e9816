// Package peer says who is at the other end of a connection to the controller: the key that its TLS handshake has proven. Names, dates and
// issuers in certificates mean nothing.
package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/startconf"
)

// Peer is a caller. Key is the SHA-256 of the key that counts for it: an enclave's signing key, or the TLS key of everybody else.
type Peer struct {
	Key startconf.KeyHash
	// Enclave is the signing key of a caller that showed two certificates, the second of which signed the first: an enclave's form. What the
	// key is worth, attestation says. Nil: it showed one.
	Enclave *journal.Key
}

// FromTLS reads the certificates of a finished handshake, which has proven the key of the first.
func FromTLS(state tls.ConnectionState) (*Peer, error) {
	chain := state.PeerCertificates
	switch len(chain) {
	case 0:
		return nil, errors.New("no client certificate")
	case 1:
		return &Peer{Key: sha256.Sum256(chain[0].RawSubjectPublicKeyInfo)}, nil
	case 2:
	default:
		return nil, fmt.Errorf("%d client certificates: an enclave shows 2, everybody else 1", len(chain))
	}
	public, ok := chain[1].PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("the second client certificate is not of an ECDSA key")
	}
	key, err := journal.NewKey(public)
	if err != nil {
		return nil, fmt.Errorf("the second client certificate: %w", err)
	}
	if err := chain[0].CheckSignatureFrom(chain[1]); err != nil {
		return nil, fmt.Errorf("the client certificate is not signed by the key of the second: %w", err)
	}
	return &Peer{Key: key.ID(), Enclave: key}, nil
}

type contextKey struct{}

// With returns a context of calls from p.
func With(ctx context.Context, p *Peer) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// From is the caller of a call; nil: nobody was authenticated.
func From(ctx context.Context) *Peer {
	p, _ := ctx.Value(contextKey{}).(*Peer)
	return p
}
