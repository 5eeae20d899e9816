package peer

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/raypher/raypher/startconf"
)

// certificateLife bounds the validity of the certificate; peers pin the key and do not look at it, but TLS wants one.
const certificateLife = 10 * 365 * 24 * time.Hour

// Certificate makes a certificate of a TLS key, self-signed, and returns it with the hash of the key by which peers know it. A controller and an
// operator's client show the same kind.
func Certificate(key *ecdsa.PrivateKey, name string) (tls.Certificate, startconf.KeyHash, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, startconf.KeyHash{}, fmt.Errorf("certificate of a TLS key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return tls.Certificate{}, startconf.KeyHash{}, fmt.Errorf("certificate of a TLS key: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sha256.Sum256(spki), nil
}
