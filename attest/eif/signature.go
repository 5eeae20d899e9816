package eif

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"github.com/fxamacker/cbor/v2"
)

// Signer is who signed an image.
type Signer struct {
	Certificate *x509.Certificate // its validity is not checked here: that is about a time, and the hypervisor does it at each start
}

// octets are bytes as an array of numbers, which is how the format's builder (serde) writes them.
type octets []uint16

func toOctets(b []byte) octets {
	o := make(octets, len(b))
	for n, v := range b {
		o[n] = uint16(v)
	}
	return o
}

func (o octets) bytes() ([]byte, error) {
	b := make([]byte, len(o))
	for n, v := range o {
		if v > 0xff {
			return nil, fmt.Errorf("%d is no byte", v)
		}
		b[n] = byte(v)
	}
	return b, nil
}

// pcrSignature is PcrSignature, and pcrInfo PcrInfo, of src/defs/mod.rs. The order of their fields is part of the encoding.
type pcrSignature struct {
	Certificate octets `cbor:"signing_certificate"` // PEM
	Signature   octets `cbor:"signature"`           // COSE_Sign1 over a pcrInfo, without tag
}

type pcrInfo struct {
	Index int32  `cbor:"register_index"`
	Value octets `cbor:"register_value"`
}

type sign1 struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[int]int
	Payload     []byte
	Signature   []byte
}

type sigStructure struct {
	_         struct{} `cbor:",toarray"`
	Context   string
	Protected []byte
	External  []byte
	Payload   []byte
}

// protectedES384 is {1: -35}, the algorithm ES384 (RFC 9052, section 3.1; RFC 9053, section 2.1).
var protectedES384 = []byte{0xa1, 0x01, 0x38, 0x22}

const scalarSize = 48 // of P-384, bytes

// Fields in the order of the structs: what serde writes, and not what RFC 8949 calls deterministic.
var (
	encoding = mustMode(cbor.EncOptions{Sort: cbor.SortNone}.EncMode())
	decoding = mustMode(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels: 4, MaxArrayElements: MaxSignature, MaxMapPairs: 16,
	}.DecMode())
)

func mustMode[T any](mode T, err error) T {
	if err != nil {
		panic(err) // constant options
	}
	return mode
}

func encode(v any) []byte { return mustMode(encoding.Marshal(v)) }

// decode accepts the one encoding that encode makes.
func decode(raw []byte, v any) error {
	if err := decoding.Unmarshal(raw, v); err != nil {
		return err
	}
	if !bytes.Equal(encode(v), raw) {
		return errors.New("not encoded as the format's builder does")
	}
	return nil
}

// Sign appends a signature section to an image that has none. The key must be the certificate's, on P-384. The same arguments make
// the same bytes (RFC 6979). PCR0, PCR1 and PCR2 stay; PCR8 becomes that of the certificate.
func Sign(raw []byte, key *ecdsa.PrivateKey, certificate *x509.Certificate) ([]byte, error) {
	image, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	if image.Signature != nil {
		return nil, errors.New("the image is already signed: sign the one without a signature")
	}
	public, ok := certificate.PublicKey.(*ecdsa.PublicKey)
	switch {
	case key.Curve != elliptic.P384():
		return nil, fmt.Errorf("the key is on %s: sign with one on P-384", key.Curve.Params().Name)
	case !ok || !public.Equal(key.Public()):
		return nil, errors.New("the certificate is for another key")
	}
	payload := encode(pcrInfo{Index: 0, Value: toOctets(image.Measurements.PCR0[:])})
	digest := toBeSigned(payload)
	der, err := key.Sign(nil, digest[:], crypto.SHA384) // without randomness: deterministic, RFC 6979
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	signature, err := fixed(der)
	if err != nil {
		return nil, err
	}
	message := encode(sign1{Protected: protectedES384, Unprotected: map[int]int{}, Payload: payload, Signature: signature})
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	section := encode([]pcrSignature{{Certificate: toOctets(block), Signature: toOctets(message)}})
	image.Sections = append(image.Sections, Section{Type: Signature, Data: section})
	signed, err := assemble(image)
	if err != nil {
		return nil, err
	}
	if _, err := Parse(signed); err != nil {
		return nil, fmt.Errorf("the signed image would be refused: %w", err)
	}
	return signed, nil
}

// toBeSigned is the digest of the Sig_structure (RFC 9052, section 4.4).
func toBeSigned(payload []byte) [sha512.Size384]byte {
	return sha512.Sum384(encode(sigStructure{Context: "Signature1", Protected: protectedES384, External: []byte{}, Payload: payload}))
}

// fixed turns a signature in DER into r and s of fixed size (RFC 9053, section 2.1).
func fixed(der []byte) ([]byte, error) {
	var numbers struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &numbers); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("signature in DER: %w", err)
	}
	out := make([]byte, 2*scalarSize)
	numbers.R.FillBytes(out[:scalarSize])
	numbers.S.FillBytes(out[scalarSize:])
	return out, nil
}

// parseSignature verifies a signature section against the image's PCR0.
func parseSignature(raw []byte, pcr0 PCR) (*Signer, error) {
	var list []pcrSignature
	if err := decode(raw, &list); err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("%d signatures: the format has one, of PCR0", len(list))
	}
	text, err := list[0].Certificate.bytes()
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	certificate, err := ParseCertificate(text)
	if err != nil {
		return nil, err
	}
	key, ok := certificate.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("the certificate's key is not on P-384")
	}
	message, err := list[0].Signature.bytes()
	if err != nil {
		return nil, err
	}
	var m sign1
	if err := decode(message, &m); err != nil {
		return nil, fmt.Errorf("COSE_Sign1: %w", err)
	}
	switch {
	case !bytes.Equal(m.Protected, protectedES384) || len(m.Unprotected) != 0:
		return nil, errors.New("COSE_Sign1: its headers must say ES384 and nothing else")
	case !bytes.Equal(m.Payload, encode(pcrInfo{Index: 0, Value: toOctets(pcr0[:])})):
		return nil, errors.New("it signs another image: its payload is not this one's PCR0")
	case len(m.Signature) != 2*scalarSize:
		return nil, fmt.Errorf("%d bytes are no signature of ES384", len(m.Signature))
	}
	digest := toBeSigned(m.Payload)
	r, s := new(big.Int).SetBytes(m.Signature[:scalarSize]), new(big.Int).SetBytes(m.Signature[scalarSize:])
	if !ecdsa.Verify(key, digest[:], r, s) {
		return nil, errors.New("it was not made with the key of its certificate")
	}
	return &Signer{Certificate: certificate}, nil
}

// ParseCertificate reads the one certificate of a PEM file.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not exactly one certificate in PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return certificate, nil
}

// ParsePrivateKey reads the EC key of a PEM file, PKCS #8 or SEC 1; parameters in front of it, as openssl writes them, are
// passed over.
func ParsePrivateKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, errors.New("no key in PEM")
	}
	switch block.Type {
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		if ec, ok := key.(*ecdsa.PrivateKey); ok {
			return ec, nil
		}
		return nil, errors.New("not an EC key")
	}
	return nil, fmt.Errorf("a PEM block of type %q is no private key that can be used here", block.Type)
}
