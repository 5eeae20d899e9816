package tpm

import (
	"bytes"
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

// tcgEKCertificate is the extended key usage of EK certificates (TCG EK Credential Profile, 3.2.16): tcg-kp-EKCertificate.
var tcgEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}

// Endorse checks that an EK certificate leads to one of the roots at a time, over the folder's intermediate certificates or those that
// came with it (DER), which are trusted no more than any other bytes. An EK is a key for decryption: a certificate of a CA, of a
// signing key or with extended key usages of something else is none.
func (r *Roots) Endorse(der []byte, intermediates [][]byte, at time.Time) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, attest.Refuse(CheckEndorsement, "%w", err)
	}
	if err := forEK(c); err != nil {
		return nil, attest.Refuse(CheckEndorsement, "%w", err)
	}
	if r == nil || r.count == 0 {
		return nil, attest.Refuse(CheckEndorsement, "no root was given")
	}
	pool := r.intermediates
	if len(intermediates) > 0 {
		pool = pool.Clone()
	}
	for i, der := range intermediates {
		between, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, attest.Refuse(CheckEndorsement, "intermediate certificate %d: %w", i+1, err)
		}
		pool.AddCert(between)
	}
	_, err = c.Verify(x509.VerifyOptions{
		Roots: r.roots, Intermediates: pool, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // forEK has judged it
	})
	if err != nil {
		return nil, attest.Refuse(CheckEndorsement, "%w", err)
	}
	return c, nil
}

// forEK checks what an EK certificate must be, and takes its critical name as read.
func forEK(c *x509.Certificate) error {
	if c.IsCA {
		return errors.New("it is a CA's")
	}
	if c.KeyUsage&(x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement) == 0 {
		return errors.New("its key is not for encryption")
	}
	usages := len(c.ExtKeyUsage) + len(c.UnknownExtKeyUsage) // none at all is common: then any will do (RFC 5280, 4.2.1.12)
	if usages > 0 && !slices.ContainsFunc(c.UnknownExtKeyUsage, tcgEKCertificate.Equal) {
		return errors.New("its extended key usages do not name tcg-kp-EKCertificate")
	}
	if i := slices.IndexFunc(c.UnhandledCriticalExtensions, subjectAltName.Equal); i >= 0 {
		if _, err := tpmName(c); err != nil {
			return fmt.Errorf("its critical alternative name: %w", err)
		}
		c.UnhandledCriticalExtensions = slices.Delete(c.UnhandledCriticalExtensions, i, i+1)
	}
	return nil
}
