package agenttls

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// Lifetimes of certificates. An agent's ends with its visa, and relying parties may have clocks that are behind.
const (
	rootLife   = 10 * 365 * 24 * time.Hour
	skew       = time.Minute
	serialSize = 16 // bytes; RFC 5280 section 4.1.2.2 allows 20
)

// Certificate issues the certificate of the visa's agent: its SPIFFE ID as the only name (X.509-SVID), for TLS clients, until the visa
// expires. The chain is in DER, with the authority's certificate at its end.
func (a *Authority) Certificate(ctx context.Context, visa []byte) (chain [][]byte, err error) {
	who, done, err := a.authorise(ctx, visa)
	if err != nil {
		return nil, err
	}
	defer done()
	authority, root, err := a.authority(ctx)
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(root)
	if err != nil {
		return nil, fmt.Errorf("tls: authority: %w", err)
	}
	id, err := url.Parse(who.Subject)
	if err != nil {
		return nil, fmt.Errorf("%w: tls: %w", ErrInvalid, err)
	}
	serial := make([]byte, serialSize)
	rand.Read(serial) // never fails (crypto/rand)
	serial[0] &= 0x7f // positive
	if err := a.record(ctx, who, journal.UseCertificate, serial); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	leaf := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), URIs: []*url.URL{id},
		NotBefore: a.opts.Now().Add(-skew), NotAfter: who.Expires(),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, issuer, who.public.Public(), signer.ForX509(ctx, authority))
	if err != nil {
		return nil, fmt.Errorf("tls: certificate: %w", err)
	}
	return [][]byte{der, root}, nil
}

// Root is the certificate of the authority, DER, self-signed. It is made anew by each process, for the same key and name, so that who
// trusts an earlier one need not take the new one.
func (a *Authority) Root(ctx context.Context) ([]byte, error) {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("tls: wait for the signer: %w", ctx.Err())
	}
	defer func() { <-a.turn }()
	_, root, err := a.authority(ctx)
	return root, err
}

// authority returns the authority's key and certificate; the caller has the turn.
func (a *Authority) authority(ctx context.Context) (signer.Signer, []byte, error) {
	key, err := a.opts.Keys.Get(ctx, journal.PurposeTLSAuthority, a.opts.TrustDomain)
	if err != nil {
		return nil, nil, fmt.Errorf("tls: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.root != nil {
		return key, a.root, nil
	}
	now := a.opts.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Raypher"}, CommonName: "agents of " + a.opts.TrustDomain},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: a.opts.TrustDomain}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(rootLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if a.root, err = x509.CreateCertificate(rand.Reader, root, root, key.Public(), signer.ForX509(ctx, key)); err != nil {
		return nil, nil, fmt.Errorf("tls: authority's certificate: %w", err)
	}
	return key, a.root, nil
}
