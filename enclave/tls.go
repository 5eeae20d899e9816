package enclave

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/internal/carrier"
	"github.com/raypher/raypher/startconf"
)

// certificateLife bounds the validity of the certificates; the peer pins keys and does not look at it, but TLS wants one.
const certificateLife = 10 * 365 * 24 * time.Hour

// serverTLS makes the enclave's side of the connection: TLS 1.3, a key born with this process whose certificate the signing
// key has signed, and only callers whose key the start configuration names. So the parent pins one key, the one that
// signs visas, and a slow device signs twice per start instead of once per connection.
func serverTLS(certificate tls.Certificate, callers []startconf.KeyHash) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // each connection proves the caller's key again
		NextProtos:             []string{"h2", carrier.Agents, carrier.Provider},
		VerifyConnection:       func(state tls.ConnectionState) error { return verifyCaller(state, callers) },
	}
}

// verifyCaller compares the key that the handshake has proven with those of the start configuration. Names, dates and issuers
// in the certificate mean nothing.
func verifyCaller(state tls.ConnectionState, callers []startconf.KeyHash) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("caller without a certificate")
	}
	hash := startconf.KeyHash(sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo))
	if !slices.Contains(callers, hash) {
		return fmt.Errorf("caller key %s is not in the start configuration", hash)
	}
	return nil
}

// ownCertificate makes what the enclave shows to its parent and, as a client, to its controller.
func ownCertificate(ctx context.Context, s signer.Signer) (tls.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	certificate, err := signedCertificate(ctx, s)
	if err != nil {
		return certificate, fmt.Errorf("certificate of the enclave: %w", err)
	}
	return certificate, nil
}

func signedCertificate(ctx context.Context, s signer.Signer) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	issuer := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "raypher-enclave signing key"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	signing := signer.ForX509(ctx, s)
	issuerDER, err := x509.CreateCertificate(rand.Reader, issuer, issuer, s.Public(), signing)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "raypher-enclave"}, DNSNames: []string{"raypher-enclave"},
		NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, issuer, key.Public(), signing)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leafDER, issuerDER}, PrivateKey: key}, nil
}
