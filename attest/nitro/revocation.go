package nitro

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/raypher/raypher/attest"
)

var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// ParseLists reads certificate revocation lists: one in DER, or any number in PEM.
func ParseLists(text []byte) ([]*x509.RevocationList, error) {
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		list, err := x509.ParseRevocationList(text)
		return []*x509.RevocationList{list}, err
	}
	var lists []*x509.RevocationList
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("a PEM block of type %q, expected X509 CRL", block.Type)
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		lists = append(lists, list)
	}
	if len(lists) == 0 {
		return nil, errors.New("no PEM block of type X509 CRL")
	}
	return lists, nil
}

// judgeList refuses lists whose meaning this package does not know: RFC 5280, section 5.2, wants that for critical
// extensions. The issuing distribution point is known as long as it only says where the list comes from.
func judgeList(list *x509.RevocationList) error {
	for _, e := range list.Extensions {
		if e.Id.Equal(oidIssuingDistributionPoint) {
			if _, err := distributionPoint(list); err != nil {
				return err
			}
			continue
		}
		if e.Critical {
			return fmt.Errorf("revocation list of %s: critical extension %s, expected a complete list", list.Issuer, e.Id)
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		if slices.ContainsFunc(entry.Extensions, func(e pkix.Extension) bool { return e.Critical }) {
			return fmt.Errorf("revocation list of %s: an entry has a critical extension, expected a list of this issuer's own certificates", list.Issuer)
		}
	}
	return nil
}

// distributionPoint returns the URIs of the issuing distribution point, or nil when the list has none and covers all
// certificates of its issuer.
func distributionPoint(list *x509.RevocationList) ([]string, error) {
	i := slices.IndexFunc(list.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidIssuingDistributionPoint) })
	if i < 0 {
		return nil, nil
	}
	names, ok := fullNames(list.Extensions[i].Value)
	if !ok {
		return nil, fmt.Errorf("revocation list of %s: it does not cover all certificates of its issuer, expected a complete list", list.Issuer)
	}
	return names, nil
}

// fullNames reads an IssuingDistributionPoint that has a full name of URIs and nothing else: every further element would take
// something out of the list. (encoding/asn1 skips trailing elements of a structure, so each level is opened by hand.)
//
//	IssuingDistributionPoint ::= SEQUENCE { distributionPoint [0] { fullName [0] { uniformResourceIdentifier [6] ... } } ... }
func fullNames(der []byte) (urls []string, ok bool) {
	var inner asn1.RawValue
	for _, want := range []struct{ class, tag int }{{asn1.ClassUniversal, asn1.TagSequence}, {asn1.ClassContextSpecific, 0}, {asn1.ClassContextSpecific, 0}} {
		rest, err := asn1.Unmarshal(der, &inner)
		if err != nil || len(rest) > 0 || inner.Class != want.class || inner.Tag != want.tag || !inner.IsCompound {
			return nil, false
		}
		der = inner.Bytes
	}
	const uri = 6
	for len(der) > 0 {
		var name asn1.RawValue
		rest, err := asn1.Unmarshal(der, &name)
		if err != nil || name.Class != asn1.ClassContextSpecific || name.Tag != uri || name.IsCompound {
			return nil, false
		}
		urls, der = append(urls, string(name.Bytes)), rest
	}
	return urls, len(urls) > 0
}

// listsOf selects the lists that cover a certificate, and verifies them with its issuer. A list that bears the issuer's name
// and not its signature is no list at all, and somebody made it: refused.
func listsOf(issuer, c *x509.Certificate, all []*x509.RevocationList) ([]*x509.RevocationList, error) {
	var covering []*x509.RevocationList
	for _, list := range all {
		if !bytes.Equal(list.RawIssuer, issuer.RawSubject) ||
			len(list.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(list.AuthorityKeyId, issuer.SubjectKeyId) {
			continue
		}
		names, err := distributionPoint(list)
		if err != nil {
			return nil, err
		}
		if names != nil && !slices.ContainsFunc(names, func(url string) bool { return slices.Contains(c.CRLDistributionPoints, url) }) {
			continue
		}
		if list.SignatureAlgorithm != x509.ECDSAWithSHA384 {
			return nil, attest.Refuse(CheckRevocation, "the list of %s is signed with %s, expected ECDSA with SHA-384", list.Issuer, list.SignatureAlgorithm)
		}
		if err := list.CheckSignatureFrom(issuer); err != nil {
			return nil, attest.Refuse(CheckRevocation, "the list of %s: %w", list.Issuer, err)
		}
		covering = append(covering, list)
	}
	return covering, nil
}

// judgeRevocation asks the lists about each certificate below the root. A certificate is refused whatever date its
// revocation has. Certificates that name no place to get a list from, such as those of instances and enclaves, live for
// hours and need none; if there is a list, it counts.
func (c *chain) judgeRevocation(at time.Time) error {
	if !c.mustCover {
		return nil
	}
	for i, certificate := range c.certificates[1:] {
		where := place(i+1, len(c.certificates))
		current := false
		for _, list := range c.lists[i+1] {
			for _, entry := range list.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(certificate.SerialNumber) == 0 {
					return attest.Refuse(CheckRevocation, "%s, serial number %x, was revoked at %s", where, certificate.SerialNumber, stamp(entry.RevocationTime))
				}
			}
			current = current || !at.Before(list.ThisUpdate.Add(-ClockSkew)) && !at.After(list.NextUpdate)
		}
		if !current && (len(c.lists[i+1]) > 0 || len(certificate.CRLDistributionPoints) > 0) {
			return attest.Refuse(CheckRevocation, "%s: no list of its issuer %s that is current at %s", where, certificate.Issuer, stamp(at))
		}
	}
	return nil
}
