package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/raypher/raypher/attest"
)

// chain is a bundle of certificates, and the leaf, whose signatures and rules hold. Whether they hold at some time is asked
// again for each document.
type chain struct {
	key          [sha256.Size]byte
	certificates []*x509.Certificate // the root first, the leaf last
	leafKey      *ecdsa.PublicKey
	lists        [][]*x509.RevocationList // per certificate: the lists of its issuer that cover it, signatures verified
	mustCover    bool                     // revocation is checked
}

func (c *chain) root() *x509.Certificate { return c.certificates[0] }
func (c *chain) leaf() *x509.Certificate { return c.certificates[len(c.certificates)-1] }

// keyOfChain identifies the exact bytes of all certificates.
func keyOfChain(s *sealed) [sha256.Size]byte {
	h := sha256.New()
	var size [4]byte
	for _, der := range append(slices.Clone(s.bundle), s.certificate) {
		binary.BigEndian.PutUint32(size[:], uint32(len(der)))
		h.Write(size[:])
		h.Write(der)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// buildChain verifies all that does not depend on time: from the bundle's first certificate, which the caller has found to be
// trusted, to the leaf. RFC 5280, section 6.1, for a path that is given: nothing is searched for.
func buildChain(s *sealed, lists []*x509.RevocationList) (*chain, error) {
	c := &chain{mustCover: len(lists) > 0}
	leaf, err := x509.ParseCertificate(s.certificate)
	if err != nil {
		return nil, attest.Refuse(CheckLeaf, "%w", err)
	}
	if c.leafKey, err = judgeLeaf(leaf); err != nil {
		return nil, err
	}
	for i, der := range s.bundle {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, attest.Refuse(CheckChain, "cabundle[%d]: %w", i, err)
		}
		if err := judgeCA(ca, i, len(s.bundle)-1-i); err != nil {
			return nil, err
		}
		c.certificates = append(c.certificates, ca)
	}
	c.certificates = append(c.certificates, leaf)
	c.lists = make([][]*x509.RevocationList, len(c.certificates))
	for i, certificate := range c.certificates[1:] {
		issuer := c.certificates[i]
		if err := judgeIssue(issuer, certificate); err != nil {
			return nil, attest.Refuse(CheckChain, "%s: %w", place(i+1, len(c.certificates)), err)
		}
		if c.lists[i+1], err = listsOf(issuer, certificate, lists); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// place names a certificate of a chain of n.
func place(i, n int) string {
	if i == n-1 {
		return "certificate"
	}
	return "cabundle[" + string(rune('0'+i)) + "]" // maxCABundle has one digit
}

var (
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
)

// judgeForm checks what all certificates of the Nitro PKI have in common, and returns the key.
func judgeForm(c *x509.Certificate) (*ecdsa.PublicKey, string) {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, "its key is not on P-384"
	}
	if c.SignatureAlgorithm != x509.ECDSAWithSHA384 {
		return nil, "signed with " + c.SignatureAlgorithm.String() + ", expected ECDSA with SHA-384"
	}
	if c.Version != 3 {
		return nil, "not an X.509 certificate of version 3"
	}
	for _, e := range c.Extensions {
		if e.Critical && !e.Id.Equal(oidKeyUsage) && !e.Id.Equal(oidBasicConstraints) {
			return nil, "it has the critical extension " + e.Id.String() + ", which the Nitro PKI does not use"
		}
	}
	return key, ""
}

// judgeLeaf checks the certificate that signs documents.
func judgeLeaf(c *x509.Certificate) (*ecdsa.PublicKey, error) {
	key, why := judgeForm(c)
	switch {
	case why != "":
		return nil, attest.Refuse(CheckLeaf, "%s", why)
	case c.IsCA || c.KeyUsage&x509.KeyUsageCertSign != 0:
		return nil, attest.Refuse(CheckLeaf, "it is a certificate authority")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, attest.Refuse(CheckLeaf, "its key usage has no digitalSignature")
	}
	return key, nil
}

// judgeCA checks the i-th certificate of the bundle, which has below further authorities under it.
func judgeCA(c *x509.Certificate, i, below int) error {
	_, why := judgeForm(c)
	switch {
	case why != "":
		return attest.Refuse(CheckChain, "cabundle[%d]: %s", i, why)
	case !c.BasicConstraintsValid || !c.IsCA:
		return attest.Refuse(CheckChain, "cabundle[%d]: not a certificate authority", i)
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return attest.Refuse(CheckChain, "cabundle[%d]: its key usage has no keyCertSign", i)
	case c.MaxPathLen >= 0 && below > c.MaxPathLen:
		return attest.Refuse(CheckChain, "cabundle[%d]: %d authorities below it, its path length allows %d", i, below, c.MaxPathLen)
	}
	return nil
}

// judgeIssue checks that issuer signed c.
func judgeIssue(issuer, c *x509.Certificate) error {
	if !bytes.Equal(issuer.RawSubject, c.RawIssuer) {
		return errors.New("its issuer is not the certificate before it")
	}
	if len(c.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId) {
		return errors.New("its authority key identifier is not that of the certificate before it")
	}
	return c.CheckSignatureFrom(issuer)
}

// judge checks what depends on time: validity (both ends belong to it) and revocation.
func (c *chain) judge(at time.Time) error {
	for i, certificate := range c.certificates {
		if at.Before(certificate.NotBefore) || at.After(certificate.NotAfter) {
			return attest.Refuse(CheckValidity, "%s is valid from %s to %s, not at %s", place(i, len(c.certificates)),
				stamp(certificate.NotBefore), stamp(certificate.NotAfter), stamp(at))
		}
	}
	return c.judgeRevocation(at)
}
