package eif_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/raypher/raypher/attest/eif"
)

// identity is a key with a certificate of its own.
type identity struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newIdentity(t testing.TB, curve elliptic.Curve) identity {
	t.Helper()
	key := ok(ecdsa.GenerateKey(curve, rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "signer"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(2e9, 0)}
	der := ok(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return identity{key, ok(x509.ParseCertificate(der))(t)}
}

// opened is the signature section as the format's own reader takes it: maps with these names, bytes as arrays of numbers.
type opened []struct {
	Certificate []int `cbor:"signing_certificate"`
	Signature   []int `cbor:"signature"`
}

func numbers(b []byte) []int {
	n := make([]int, len(b))
	for i, v := range b {
		n[i] = int(v)
	}
	return n
}

func octets(n []int) []byte {
	b := make([]byte, len(n))
	for i, v := range n {
		b[i] = byte(v)
	}
	return b
}

// TestSign: the same arguments make the same bytes; PCR8 is the certificate's; PCR0 to PCR2 stay; and a second implementation of
// COSE finds the signature good.
func TestSign(t *testing.T) {
	who := newIdentity(t, elliptic.P384())
	raw := ok(eif.Build(contents()))(t)
	signed := ok(eif.Sign(raw, who.key, who.certificate))(t)
	if !bytes.Equal(signed, ok(eif.Sign(raw, who.key, who.certificate))(t)) {
		t.Error("two signings differ")
	}
	before, after := ok(eif.Parse(raw))(t).Measurements, ok(eif.Parse(signed))(t)
	m := after.Measurements
	if m.PCR0 != before.PCR0 || m.PCR1 != before.PCR1 || m.PCR2 != before.PCR2 {
		t.Error("signing changed a measurement")
	}
	digest := sha512.Sum384(who.certificate.Raw)
	if want := sha512.Sum384(append(make([]byte, 48), digest[:]...)); m.PCR8 == nil || *m.PCR8 != want {
		t.Errorf("PCR8 %x, want %x", m.PCR8, want)
	}
	if !after.Signature.Certificate.Equal(who.certificate) {
		t.Error("another certificate")
	}

	var list opened
	if err := cbor.Unmarshal(after.Sections[len(after.Sections)-1].Data, &list); err != nil || len(list) != 1 {
		t.Fatalf("%v, %d signatures", err, len(list))
	}
	if block, _ := pem.Decode(octets(list[0].Certificate)); block == nil || !bytes.Equal(block.Bytes, who.certificate.Raw) {
		t.Error("the section does not hold the certificate in PEM")
	}
	var message cose.UntaggedSign1Message
	if err := message.UnmarshalCBOR(octets(list[0].Signature)); err != nil {
		t.Fatal(err)
	}
	verifier := ok(cose.NewVerifier(cose.AlgorithmES384, who.key.Public()))(t)
	if err := message.Verify(nil, verifier); err != nil {
		t.Error(err)
	}
	var payload struct {
		Index int   `cbor:"register_index"`
		Value []int `cbor:"register_value"`
	}
	if err := cbor.Unmarshal(message.Payload, &payload); err != nil || payload.Index != 0 || !bytes.Equal(octets(payload.Value), m.PCR0[:]) {
		t.Errorf("%v: payload %+v", err, payload)
	}
}

func TestSignRefuses(t *testing.T) {
	who, other, small := newIdentity(t, elliptic.P384()), newIdentity(t, elliptic.P384()), newIdentity(t, elliptic.P256())
	raw := ok(eif.Build(contents()))(t)
	for _, c := range []struct {
		name        string
		raw         []byte
		key         *ecdsa.PrivateKey
		certificate *x509.Certificate
		want        string
	}{
		{"another one's certificate", raw, who.key, other.certificate, "for another key"},
		{"a key on P-256", raw, small.key, small.certificate, "P-384"},
		{"an image that is signed", ok(eif.Sign(raw, who.key, who.certificate))(t), who.key, who.certificate, "already signed"},
		{"a damaged image", raw[:len(raw)-1], who.key, who.certificate, "sections"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := eif.Sign(c.raw, c.key, c.certificate); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// section makes signature sections of any kind. Zero fields are filled with what is right.
type section struct {
	protected, payload, signature, message, certificate []byte
	index                                               int
	unprotected                                         map[int]int
}

func (s section) make(t *testing.T, who identity, pcr0 eif.PCR) []byte {
	t.Helper()
	type info struct {
		Index int   `cbor:"register_index"`
		Value []int `cbor:"register_value"`
	}
	type entry struct {
		Certificate []int `cbor:"signing_certificate"`
		Signature   []int `cbor:"signature"`
	}
	if s.protected == nil {
		s.protected = []byte{0xa1, 0x01, 0x38, 0x22}
	}
	if s.payload == nil {
		s.payload = ok(cbor.Marshal(info{s.index, numbers(pcr0[:])}))(t)
	}
	if s.unprotected == nil {
		s.unprotected = map[int]int{}
	}
	if s.signature == nil {
		digest := sha512.Sum384(ok(cbor.Marshal([]any{"Signature1", s.protected, []byte{}, s.payload}))(t))
		r, v, err := ecdsa.Sign(rand.Reader, who.key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		s.signature = append(r.FillBytes(make([]byte, 48)), v.FillBytes(make([]byte, 48))...)
	}
	if s.message == nil {
		s.message = ok(cbor.Marshal([]any{s.protected, s.unprotected, s.payload, s.signature}))(t)
	}
	if s.certificate == nil {
		s.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: who.certificate.Raw})
	}
	return ok(cbor.Marshal([]entry{{numbers(s.certificate), numbers(s.message)}}))(t)
}

// TestSignatureRefusals: an image with a signature that is not one is refused; it is not taken for an unsigned one.
func TestSignatureRefusals(t *testing.T) {
	who, other, small := newIdentity(t, elliptic.P384()), newIdentity(t, elliptic.P384()), newIdentity(t, elliptic.P256())
	image := ok(eif.Parse(ok(eif.Build(contents()))(t)))(t)
	pcr0 := image.Measurements.PCR0
	with := func(data []byte) []byte {
		return eif.Assemble(append(append([]eif.Section(nil), image.Sections...), eif.Section{Type: eif.Signature, Data: data})...)
	}
	if _, err := eif.Parse(with(section{}.make(t, who, pcr0))); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	otherPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.certificate.Raw})
	whoPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: who.certificate.Raw})
	good := section{}.make(t, who, pcr0)
	var list []any
	if err := cbor.Unmarshal(good, &list); err != nil {
		t.Fatal(err)
	}
	flipped := pcr0
	flipped[0] ^= 1
	for name, data := range map[string][]byte{
		"no CBOR":                      []byte("signature"),
		"no signatures":                {0x80},
		"two signatures":               ok(cbor.Marshal(append(list, list[0])))(t),
		"bytes after it":               append(bytes.Clone(good), 0),
		"the certificate as bytes":     ok(cbor.Marshal([]map[string]any{{"signing_certificate": []byte("x"), "signature": []int{1}}}))(t),
		"numbers that are no bytes":    above255(t, good),
		"no certificate":               section{certificate: []byte("none")}.make(t, who, pcr0),
		"two certificates":             section{certificate: append(bytes.Clone(whoPEM), otherPEM...)}.make(t, who, pcr0),
		"another one's certificate":    section{certificate: otherPEM}.make(t, who, pcr0),
		"a key on P-256":               section{}.make(t, small, pcr0),
		"another image's PCR0":         section{}.make(t, who, flipped),
		"another register":             section{index: 1}.make(t, who, pcr0),
		"another algorithm":            section{protected: []byte{0xa1, 0x01, 0x26}}.make(t, who, pcr0),
		"an unprotected header":        section{unprotected: map[int]int{4: 1}}.make(t, who, pcr0),
		"a short signature":            section{signature: make([]byte, 95)}.make(t, who, pcr0),
		"a signature of zeros":         section{signature: make([]byte, 96)}.make(t, who, pcr0),
		"a message that is no array":   section{message: []byte{0xa0}}.make(t, who, pcr0),
		"a message with a tag":         section{message: append([]byte{0xd2}, octetsOf(t, list)...)}.make(t, who, pcr0),
		"a length in more bytes, once": append([]byte{0x98, 0x01}, good[1:]...),
	} {
		t.Run(name, func(t *testing.T) { refused(t, with(data), eif.CheckSignature) })
	}
}

// above255 is the section with a number that would be right if its upper bits were cut off.
func above255(t *testing.T, good []byte) []byte {
	t.Helper()
	var list opened
	if err := cbor.Unmarshal(good, &list); err != nil {
		t.Fatal(err)
	}
	list[0].Certificate[0] += 256
	return ok(cbor.Marshal(list))(t)
}

// octetsOf is the message of the only signature of a decoded section.
func octetsOf(t *testing.T, list []any) []byte {
	t.Helper()
	var message []byte
	for _, n := range list[0].(map[any]any)["signature"].([]any) {
		message = append(message, byte(n.(uint64)))
	}
	return message
}
