package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/attest"
)

// Roots are the certificates of TPM vendors that a relying party trusts. The zero value trusts nobody.
type Roots struct {
	roots         *x509.CertPool
	intermediates *x509.CertPool
	count         int
}

// Bounds of a folder of roots.
const (
	maxRootFiles    = 1024
	maxRootFileSize = 1 << 20
)

// LoadRoots reads every file of a folder, PEM (any number of certificates) or DER (one). Self-signed certificates are roots;
// others only help to build chains, and are never trusted by themselves.
func LoadRoots(dir string) (*Roots, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("roots of TPM vendors: %w", err)
	}
	if len(entries) > maxRootFiles {
		return nil, fmt.Errorf("roots of TPM vendors: %d files in %s, at most %d", len(entries), dir, maxRootFiles)
	}
	r := new(Roots)
	for _, entry := range entries {
		if entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		certificates, err := readCertificates(path)
		if err != nil {
			return nil, fmt.Errorf("roots of TPM vendors: %s: %w", path, err)
		}
		for _, c := range certificates {
			r.Add(c)
		}
	}
	if r.count == 0 {
		return nil, fmt.Errorf("roots of TPM vendors: no self-signed certificate in %s: put the root certificates of the TPM's vendor there", dir)
	}
	return r, nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRootFileSize {
		return nil, fmt.Errorf("not a regular file of at most %d bytes", maxRootFileSize)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		c, err := x509.ParseCertificate(text)
		return []*x509.Certificate{c}, err
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return out, nil
}

// Add takes one certificate: as a root when it is self-signed, else to build chains with.
func (r *Roots) Add(c *x509.Certificate) {
	if r.roots == nil {
		r.roots, r.intermediates = x509.NewCertPool(), x509.NewCertPool()
	}
	if bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil {
		r.roots.AddCert(c)
		r.count++
		return
	}
	r.intermediates.AddCert(c)
}

// subjectAltName of an EK certificate is critical and names the TPM's maker and model in a form that crypto/x509 does not
// read (TCG EK Credential Profile, 3.2.9). It decides nothing here.
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// Endorse checks that an EK certificate leads to one of the roots at a time. An EK is a key for decryption: a certificate
// of a CA or of a signing key is none.
func (r *Roots) Endorse(der []byte, at time.Time) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, attest.Refuse(CheckEndorsement, "%w", err)
	}
	if c.IsCA {
		return nil, attest.Refuse(CheckEndorsement, "it is a CA's")
	}
	if c.KeyUsage&(x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement) == 0 {
		return nil, attest.Refuse(CheckEndorsement, "its key is not for encryption")
	}
	if r == nil || r.count == 0 {
		return nil, attest.Refuse(CheckEndorsement, "no root was given")
	}
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, subjectAltName.Equal)
	_, err = c.Verify(x509.VerifyOptions{
		Roots: r.roots, Intermediates: r.intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // the TCG's own usage, tcg-kp-EKCertificate, is often missing
	})
	if err != nil {
		return nil, attest.Refuse(CheckEndorsement, "%w", err)
	}
	return c, nil
}

// EKTemplate is the public area of the EK that a TPM makes for a certificate's key: RSA 2048 (template L-1) or ECC P-256
// (template L-2) of the EK Credential Profile, appendix B. Other kinds are refused.
func EKTemplate(c *x509.Certificate) (*tpm2.TPMTPublic, error) {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() != 2048 || key.E != 65537 {
			return nil, attest.Refuse(CheckEndorsement, "an RSA key of %d bits, expected 2048", key.N.BitLen())
		}
		public := tpm2.RSAEKTemplate
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.FillBytes(make([]byte, 256))})
		return &public, nil
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, attest.Refuse(CheckEndorsement, "a key on %s, expected P-256", key.Curve.Params().Name)
		}
		point, err := key.Bytes()
		if err != nil {
			return nil, attest.Refuse(CheckEndorsement, "%w", err)
		}
		public := tpm2.ECCEKTemplate
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		})
		return &public, nil
	}
	return nil, attest.Refuse(CheckEndorsement, "a key of an unknown kind")
}
