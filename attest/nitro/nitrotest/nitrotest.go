// Package nitrotest makes attestation documents like those of AWS Nitro Enclaves, under a PKI of its own, for tests of what
// verifies them, and for the laboratory's Nitro Secure Module (lab/nsm). Everything in a document can be replaced before it is
// signed, also by what no hypervisor would write. No verifier accepts them unless it is told to trust the PKI's root.
package nitrotest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// ModuleID and InstanceID are those of every document, unless a test replaces them.
const (
	InstanceID = "i-0123456789abcdef0"
	ModuleID   = InstanceID + "-enc0123456789abcdef"
)

// TB is what this package needs of a testing.TB. Fatal does not return.
type TB interface {
	Helper()
	Fatal(args ...any)
}

// Certificate is a certificate with its key.
type Certificate struct {
	*x509.Certificate
	Key *ecdsa.PrivateKey
}

// PKI has the shape of the real one: root (30 years), region (20 days, path length 2), zone (6 days, 1), instance (1 day, 0).
type PKI struct {
	Chain []*Certificate // the root first, the leaf's issuer last
	At    time.Time      // in the middle of every validity; the time of the documents
	fixed bool
}

// CRLPlace is the distribution point that region and zone certificates name.
const CRLPlace = "http://crl.example.com/list.crl"

// New makes a PKI.
func New(t TB, at time.Time) *PKI {
	t.Helper()
	return build(t, at, false)
}

// Fixed makes the same PKI each time: the workers of one fuzz run are processes of their own. Its keys are public knowledge.
func Fixed(t TB, at time.Time) *PKI {
	t.Helper()
	return build(t, at, true)
}

func build(t TB, at time.Time, fixed bool) *PKI {
	t.Helper()
	return grow(t, &PKI{At: at.UTC().Truncate(time.Second), fixed: fixed})
}

// Renew makes the authorities below the root anew, around another time.
func (p *PKI) Renew(t TB, at time.Time) *PKI {
	t.Helper()
	return grow(t, &PKI{Chain: p.Chain[:1:1], At: at.UTC().Truncate(time.Second), fixed: p.fixed})
}

// grow makes the authorities that a chain does not have yet.
func grow(t TB, p *PKI) *PKI {
	t.Helper()
	const day = 24 * time.Hour
	lives := []time.Duration{30 * 365 * day, 20 * day, 6 * day, day}
	for i := len(p.Chain); i < len(lives); i++ {
		life := lives[i]
		c := &x509.Certificate{
			Subject:               pkix.Name{CommonName: []string{"root", "region", "zone", "instance"}[i] + ".example", Organization: []string{"Test"}},
			NotBefore:             p.At.Add(-life / 2),
			NotAfter:              p.At.Add(life / 2),
			IsCA:                  true,
			BasicConstraintsValid: true,
			MaxPathLen:            3 - i,
			MaxPathLenZero:        true,
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		}
		if i == 0 {
			c.MaxPathLen, c.MaxPathLenZero = -1, false
		}
		if i == 1 || i == 2 {
			c.CRLDistributionPoints = []string{CRLPlace}
		}
		if p.fixed {
			c.SerialNumber = big.NewInt(int64(i + 1))
		}
		p.Chain = append(p.Chain, Issue(t, p.last(), c, elliptic.P384()))
	}
	return p
}

func (p *PKI) last() *Certificate {
	if len(p.Chain) == 0 {
		return nil
	}
	return p.Chain[len(p.Chain)-1]
}

// Root is what a verifier has to trust.
func (p *PKI) Root() *x509.Certificate { return p.Chain[0].Certificate }

// RootPEM is the root as a file.
func (p *PKI) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Root().Raw})
}

// Issue makes a key on a curve and a certificate for it; without an issuer it signs itself. A template with a serial number
// gets the key and the signature that follow from it, another one gets all three at random.
func Issue(t TB, issuer *Certificate, template *x509.Certificate, curve elliptic.Curve) *Certificate {
	t.Helper()
	key, err := newKey(curve, template.SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.Reader
	if template.SerialNumber != nil {
		random = nil
	} else if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		t.Fatal(err)
	}
	if template.SignatureAlgorithm == x509.UnknownSignatureAlgorithm {
		template.SignatureAlgorithm = x509.ECDSAWithSHA384
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.Key
	}
	der, err := x509.CreateCertificate(nil, template, parent, key.Public(), &signerWith{signer, random})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Certificate{Certificate: certificate, Key: key}
}

// newKey derives a key from a serial number, or makes one at random without.
func newKey(curve elliptic.Curve, serial *big.Int) (*ecdsa.PrivateKey, error) {
	if serial == nil {
		return ecdsa.GenerateKey(curve, rand.Reader)
	}
	seed := sha512.Sum512([]byte("test key " + serial.String()))
	return ecdsa.ParseRawPrivateKey(curve, seed[:(curve.Params().BitSize+7)/8])
}

// signerWith signs with its own source of randomness; without one the signature follows from key and digest (RFC 6979).
type signerWith struct {
	*ecdsa.PrivateKey
	random io.Reader
}

func (s *signerWith) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(s.random, digest, o)
}

// LeafTemplate is the certificate of an enclave: three hours, of which PKI.At is in the middle.
func (p *PKI) LeafTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: ModuleID + ".region.aws"},
		NotBefore:             p.At.Add(-90 * time.Minute),
		NotAfter:              p.At.Add(90 * time.Minute),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment,
	}
}

// Leaf issues the certificate of an enclave.
func (p *PKI) Leaf(t TB) *Certificate {
	t.Helper()
	template := p.LeafTemplate()
	if p.fixed {
		template.SerialNumber = big.NewInt(100)
	}
	return Issue(t, p.last(), template, elliptic.P384())
}

// RevocationList makes a list of the i-th authority of the chain.
func (p *PKI) RevocationList(t TB, i int, edit func(*x509.RevocationList), revoked ...*x509.Certificate) *x509.RevocationList {
	t.Helper()
	template := &x509.RevocationList{
		SignatureAlgorithm: x509.ECDSAWithSHA384,
		Number:             big.NewInt(1),
		ThisUpdate:         p.At.Add(-time.Hour),
		NextUpdate:         p.At.Add(time.Hour),
	}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: p.At.Add(-time.Hour)})
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, p.Chain[i].Certificate, p.Chain[i].Key)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Field is one entry of the payload's map.
type Field struct {
	Name  any // string, or any other CBOR key
	Value any // cbor.RawMessage stands for itself
}

// Draft is a document that is not yet signed.
type Draft struct {
	Protected   []byte // what the byte string holds
	Unprotected []byte // CBOR
	Fields      []Field
	OpenMap     bool   // the payload's map has indefinite length
	Payload     []byte // instead of Fields
	Key         *ecdsa.PrivateKey
	// Sign replaces the signature, which is ES384 for keys on P-384; of other curves it has the hash that nitrite takes.
	Sign func(structure []byte) []byte
}

// PCR is a register after one extension of zero, as real ones are.
func PCR(content string) []byte {
	sum := sha512.Sum384(append(make([]byte, sha512.Size384), content...))
	return sum[:]
}

// Draft is a document that is right in every part.
func (p *PKI) Draft(leaf *Certificate) *Draft {
	pcrs := map[int][]byte{0: PCR("image"), 1: PCR("kernel"), 2: PCR("application"), 4: PCR(InstanceID)}
	for i := range 16 {
		if pcrs[i] == nil {
			pcrs[i] = make([]byte, sha512.Size384)
		}
	}
	var bundle [][]byte
	for _, c := range p.Chain {
		bundle = append(bundle, c.Raw)
	}
	return &Draft{
		Protected:   []byte{0xa1, 0x01, 0x38, 0x22},
		Unprotected: []byte{0xa0},
		Fields: []Field{
			{"module_id", ModuleID},
			{"digest", "SHA384"},
			{"timestamp", uint64(p.At.UnixMilli())},
			{"pcrs", pcrs},
			{"certificate", leaf.Raw},
			{"cabundle", bundle},
			{"public_key", []byte("public key")},
			{"user_data", nil},
			{"nonce", []byte("nonce")},
		},
		Key: leaf.Key,
	}
}

// InstanceDraft is the document of the NitroTPM of InstanceID, as AWS describes such documents: 24 registers, of which 4 and 7 hold
// PCR("boot") and PCR("secure boot").
func (p *PKI) InstanceDraft(leaf *Certificate, nonce []byte, at time.Time) *Draft {
	d := p.Draft(leaf)
	pcrs := map[int][]byte{}
	for i := range 24 {
		pcrs[i] = make([]byte, sha512.Size384)
	}
	pcrs[4], pcrs[7] = PCR("boot"), PCR("secure boot")
	d.Remove("pcrs")
	d.Set("nitrotpm_pcrs", pcrs)
	d.Set("module_id", InstanceID+"-tpm0000000000000000")
	d.Set("public_key", nil)
	d.Set("nonce", nonce)
	d.Set("timestamp", uint64(at.UnixMilli()))
	return d
}

// Set replaces or adds a field.
func (d *Draft) Set(name string, value any) {
	for i := range d.Fields {
		if d.Fields[i].Name == name {
			d.Fields[i].Value = value
			return
		}
	}
	d.Fields = append(d.Fields, Field{name, value})
}

// Get returns a field's value.
func (d *Draft) Get(name string) any {
	for _, f := range d.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return nil
}

// Remove takes a field out.
func (d *Draft) Remove(name string) {
	for i := range d.Fields {
		if d.Fields[i].Name == name {
			d.Fields = append(d.Fields[:i], d.Fields[i+1:]...)
			return
		}
	}
}

// CBOR encodes a value; maps get sorted keys.
func CBOR(t TB, value any) []byte {
	t.Helper()
	mode, err := cbor.EncOptions{Sort: cbor.SortCanonical}.EncMode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := mode.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// EncodePayload is the payload.
func (d *Draft) EncodePayload(t TB) []byte {
	t.Helper()
	if d.Payload != nil {
		return d.Payload
	}
	payload := []byte{0xbf}
	if !d.OpenMap {
		payload = []byte{0xa0 | byte(len(d.Fields))}
	}
	for _, f := range d.Fields {
		payload = append(payload, CBOR(t, f.Name)...)
		payload = append(payload, CBOR(t, f.Value)...)
	}
	if d.OpenMap {
		payload = append(payload, 0xff)
	}
	return payload
}

// Seal signs the document and encodes it.
func (d *Draft) Seal(t TB) []byte {
	t.Helper()
	parts := d.Parts(t)
	document := []byte{0x80 | byte(len(parts))}
	for _, part := range parts {
		document = append(document, part...)
	}
	return document
}

// Parts are the four elements of the COSE_Sign1 structure, encoded.
func (d *Draft) Parts(t TB) [][]byte {
	t.Helper()
	payload := d.EncodePayload(t)
	structure := CBOR(t, []any{"Signature1", d.Protected, []byte{}, payload})
	sign := d.Sign
	if sign == nil {
		sign = func(structure []byte) []byte { return d.sign(t, structure) }
	}
	return [][]byte{CBOR(t, d.Protected), d.Unprotected, CBOR(t, payload), CBOR(t, sign(structure))}
}

func (d *Draft) sign(t TB, structure []byte) []byte {
	t.Helper()
	digest := hash(d.Key.Curve, structure)
	r, s, err := ecdsa.Sign(rand.Reader, d.Key, digest)
	if err != nil {
		t.Fatal(err)
	}
	size := (d.Key.Curve.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

// hash is the one that goes with a curve.
func hash(curve elliptic.Curve, structure []byte) []byte {
	switch curve {
	case elliptic.P256():
		sum := sha256.Sum256(structure)
		return sum[:]
	case elliptic.P521():
		sum := sha512.Sum512(structure)
		return sum[:]
	default:
		sum := sha512.Sum384(structure)
		return sum[:]
	}
}
