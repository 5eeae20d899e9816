package nitro_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/journal"
)

// world is a PKI, an enclave's certificate and the time.
type world struct {
	*nitrotest.PKI
	leaf *nitrotest.Certificate
}

func newWorld(t testing.TB) *world {
	pki := nitrotest.New(t, time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	return &world{PKI: pki, leaf: pki.Leaf(t)}
}

func (w *world) verifier(t testing.TB) *nitro.Verifier {
	return newVerifier(t, nitro.Config{Roots: []*x509.Certificate{w.Root()}})
}

// leafWith signs a draft with a leaf of another kind.
func (w *world) leafWith(t *testing.T, d *nitrotest.Draft, curve elliptic.Curve, edit func(*x509.Certificate)) {
	t.Helper()
	template := w.LeafTemplate()
	if edit != nil {
		edit(template)
	}
	leaf := nitrotest.Issue(t, w.Chain[len(w.Chain)-1], template, curve)
	d.Set("certificate", leaf.Raw)
	d.Key = leaf.Key
}

// pcrsWith is the draft's PCRs with some replaced; nil takes one out.
func pcrsWith(d *nitrotest.Draft, changes map[int][]byte) map[int][]byte {
	pcrs := d.Get("pcrs").(map[int][]byte)
	for index, value := range changes {
		pcrs[index] = value
		if value == nil {
			delete(pcrs, index)
		}
	}
	return pcrs
}

// refused is one document that must be refused.
type refused struct {
	name  string
	want  attest.Check
	edit  func(t *testing.T, w *world, d *nitrotest.Draft)
	ask   func(w *world, e *nitro.Expected)
	after func(document []byte) []byte // changes what was signed
	other bool                         // nitrite alone accepts this document
}

func raw(b ...byte) cbor.RawMessage { return b }

func set(name string, value any) func(*testing.T, *world, *nitrotest.Draft) {
	return func(_ *testing.T, _ *world, d *nitrotest.Draft) { d.Set(name, value) }
}

func setPCR(index int, value []byte) func(*testing.T, *world, *nitrotest.Draft) {
	return func(_ *testing.T, _ *world, d *nitrotest.Draft) {
		d.Set("pcrs", pcrsWith(d, map[int][]byte{index: value}))
	}
}

func remove(name string) func(*testing.T, *world, *nitrotest.Draft) {
	return func(_ *testing.T, _ *world, d *nitrotest.Draft) { d.Remove(name) }
}

func leaf(curve elliptic.Curve, edit func(*x509.Certificate)) func(*testing.T, *world, *nitrotest.Draft) {
	return func(t *testing.T, w *world, d *nitrotest.Draft) { w.leafWith(t, d, curve, edit) }
}

// replaced swaps bytes of the encoded payload; both sides must have one length unless the map is open.
func replaced(old, new string) func(*testing.T, *world, *nitrotest.Draft) {
	return func(t *testing.T, _ *world, d *nitrotest.Draft) {
		payload := d.EncodePayload(t)
		if !bytes.Contains(payload, []byte(old)) {
			t.Fatalf("%q is not in the payload", old)
		}
		d.Payload = bytes.Replace(payload, []byte(old), []byte(new), 1)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	for _, group := range [][]refused{outerCases, payloadCases, fieldCases, certificateCases, meaningCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				draft := w.Draft(w.leaf)
				if c.edit != nil {
					c.edit(t, w, draft)
				}
				document := draft.Seal(t)
				if c.after != nil {
					document = c.after(document)
				}
				expected := nitro.Expected{At: w.At}
				if c.ask != nil {
					c.ask(w, &expected)
				}
				d, err := w.verifier(t).Verify(document, expected)
				if d != nil {
					t.Error("a refusal with a document")
				}
				refuses(t, err, c.want)
				root := w.Root()
				if other := nitro.AskNitrite(document, root, w.At); (other == nil) != c.other {
					t.Errorf("nitrite alone says %v", other)
				}
			})
		}
	}
}

var outerCases = []refused{
	{name: "empty", want: nitro.CheckEncoding, after: func([]byte) []byte { return nil }},
	{name: "too large", want: nitro.CheckSize, after: func(b []byte) []byte { return append(b, make([]byte, nitro.MaxDocumentSize)...) }},
	{name: "truncated", want: nitro.CheckEncoding, after: func(b []byte) []byte { return b[:len(b)-1] }},
	{name: "a byte too much", want: nitro.CheckEncoding, after: func(b []byte) []byte { return append(b, 0) }},
	{name: "tag 18", want: nitro.CheckEncoding, other: true, after: func(b []byte) []byte { return append([]byte{0xd2}, b...) }},
	{name: "three elements", want: nitro.CheckCOSE, after: func(b []byte) []byte { return append([]byte{0x83}, b[1:]...) }},
	{name: "five elements", want: nitro.CheckCOSE, after: func(b []byte) []byte { return append(append([]byte{0x85}, b[1:]...), 0xf6) }},
	{name: "an array of indefinite length", want: nitro.CheckEncoding, other: true, after: func(b []byte) []byte { return append(append([]byte{0x9f}, b[1:]...), 0xff) }},
	{name: "a longer head than needed", want: nitro.CheckEncoding, other: true, after: func(b []byte) []byte { return append([]byte{0x98, 4}, b[1:]...) }},
	{name: "unprotected entries", want: nitro.CheckCOSE, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) { d.Unprotected = []byte{0xa1, 0x04, 0x41, 0x00} }},
	{name: "unprotected null", want: nitro.CheckEncoding, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) { d.Unprotected = []byte{0xf6} }},
	{name: "crit", want: nitro.CheckCOSE, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		d.Protected = []byte{0xa2, 0x01, 0x38, 0x22, 0x02, 0x81, 0x18, 0x63}
	}},
	{name: "ES256 in the header", want: nitro.CheckCOSE, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) { d.Protected = []byte{0xa1, 0x01, 0x26} }},
	{name: "the algorithm as text", want: nitro.CheckCOSE, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		d.Protected = []byte("\xa1\x01\x65ES384")
	}},
	{name: "no protected header", want: nitro.CheckCOSE, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) { d.Protected = []byte{} }},
	{name: "a signature of 95 bytes", want: nitro.CheckCOSE, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		d.Sign = func([]byte) []byte { return make([]byte, 95) }
	}},
	{name: "a signature of zeros", want: nitro.CheckSignature, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		d.Sign = func([]byte) []byte { return make([]byte, 96) }
	}},
	{name: "signed by another key", want: nitro.CheckSignature, edit: func(t *testing.T, w *world, d *nitrotest.Draft) { d.Key = w.Leaf(t).Key }},
}

var payloadCases = []refused{
	{name: "a field twice", want: nitro.CheckEncoding, other: true, edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) {
		d.Fields = append(d.Fields, nitrotest.Field{Name: "nonce", Value: []byte("other")})
	}},
	{name: "a PCR twice", want: nitro.CheckEncoding, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		one := append([]byte{0x00, 0x58, 0x30}, make([]byte, 48)...)
		d.Set("pcrs", append(append(raw(0xa2), one...), one...))
	}},
	{name: "PCRs in a map of indefinite length", want: nitro.CheckEncoding, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		pcrs := nitrotest.CBOR(t, d.Get("pcrs"))
		d.Set("pcrs", cbor.RawMessage(append(append([]byte{0xbf}, pcrs[1:]...), 0xff)))
	}},
	{name: "cabundle of indefinite length", want: nitro.CheckEncoding, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		bundle := nitrotest.CBOR(t, d.Get("cabundle"))
		d.Set("cabundle", cbor.RawMessage(append(append([]byte{0x9f}, bundle[1:]...), 0xff)))
	}},
	{name: "a nonce in pieces", want: nitro.CheckEncoding, other: true, edit: set("nonce", raw(0x5f, 0x41, 'n', 0x41, 'o', 0xff))},
	{name: "a number longer than needed", want: nitro.CheckEncoding, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		pcrs := nitrotest.CBOR(t, d.Get("pcrs")) // b0 00 ...: PCR0 becomes 18 00
		d.Set("pcrs", cbor.RawMessage(slices.Concat(pcrs[:1], []byte{0x18, 0x00}, pcrs[2:])))
	}},
	{name: "an open map that does not end", want: nitro.CheckEncoding, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		d.OpenMap = true
		payload := d.EncodePayload(t)
		d.Payload = payload[:len(payload)-1]
	}},
	{name: "bytes after the map", want: nitro.CheckEncoding, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) { d.Payload = append(d.EncodePayload(t), 0xf6) }},
	{name: "a count of 2^64-1 fields", want: nitro.CheckEncoding, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		d.Payload = append([]byte("\xbb\xff\xff\xff\xff\xff\xff\xff\xff"), d.EncodePayload(t)[1:]...)
	}},
	{name: "a string of 2^63 bytes", want: nitro.CheckEncoding, edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) {
		d.Payload = []byte("\xa1\x65nonce\x5b\x80\x00\x00\x00\x00\x00\x00\x00")
	}},
	{name: "text that is not UTF-8", want: nitro.CheckEncoding, edit: set("module_id", raw(0x62, 0xc3, 0x28))},
	{name: "an empty payload", want: nitro.CheckEncoding, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) { d.Payload = []byte{} }},
	{name: "a payload that is an array", want: nitro.CheckEncoding, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) { d.Payload = []byte{0x80} }},
	{name: "a tag inside", want: nitro.CheckEncoding, other: true, edit: func(t *testing.T, _ *world, d *nitrotest.Draft) {
		d.Set("nonce", cbor.Tag{Number: 24, Content: []byte("n")})
	}},
	{name: "a number as a field's name", want: nitro.CheckEncoding, other: true, edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) {
		d.Fields = append(d.Fields, nitrotest.Field{Name: 7, Value: 7})
	}},
}

var fieldCases = []refused{
	{name: "an unknown field", want: nitro.CheckFields, other: true, edit: set("extra", 1)},
	{name: "PCRs of a NitroTPM", want: nitro.CheckFields, edit: replaced("\x64pcrs", "\x6dnitrotpm_pcrs")},
	{name: "a name in capitals", want: nitro.CheckFields, other: true, edit: replaced("module_id", "Module_ID")},
	{name: "no module_id", want: nitro.CheckFields, edit: remove("module_id")},
	{name: "no digest", want: nitro.CheckFields, edit: remove("digest")},
	{name: "no timestamp", want: nitro.CheckFields, edit: remove("timestamp")},
	{name: "no pcrs", want: nitro.CheckFields, edit: remove("pcrs")},
	{name: "no certificate", want: nitro.CheckFields, edit: remove("certificate")},
	{name: "no cabundle", want: nitro.CheckFields, edit: remove("cabundle")},
	{name: "module_id null", want: nitro.CheckEncoding, edit: set("module_id", nil)},
	{name: "an empty module_id", want: nitro.CheckFields, edit: set("module_id", "")},
	{name: "a module_id of another kind", want: nitro.CheckFields, other: true, edit: set("module_id", "i-0123456789abcdef0")},
	{name: "a module_id with a newline", want: nitro.CheckFields, other: true, edit: set("module_id", nitrotest.ModuleID+"\nok")},
	{name: "a long module_id", want: nitro.CheckFields, other: true, edit: set("module_id", nitrotest.ModuleID+strings.Repeat("0", 100))},
	{name: "SHA512", want: nitro.CheckFields, edit: set("digest", "SHA512")},
	{name: "timestamp 0", want: nitro.CheckFields, edit: set("timestamp", 0)},
	{name: "timestamp 2^63", want: nitro.CheckFields, other: true, edit: set("timestamp", uint64(1)<<63)},
	{name: "a negative timestamp", want: nitro.CheckEncoding, edit: set("timestamp", -1)},
	{name: "no PCR at all", want: nitro.CheckFields, edit: set("pcrs", map[int][]byte{})},
	{name: "33 PCRs", want: nitro.CheckFields, edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) {
		changes := map[int][]byte{}
		for i := 16; i < 33; i++ {
			changes[i] = make([]byte, 48)
		}
		d.Set("pcrs", pcrsWith(d, changes))
	}},
	{name: "PCR32", want: nitro.CheckFields, edit: setPCR(32, make([]byte, 48))},
	{name: "no PCR0", want: nitro.CheckFields, other: true, edit: setPCR(0, nil)},
	{name: "no PCR4", want: nitro.CheckFields, other: true, edit: setPCR(4, nil)},
	{name: "a PCR of 32 bytes", want: nitro.CheckFields, other: true, edit: setPCR(0, make([]byte, 32))},
	{name: "a PCR of 64 bytes", want: nitro.CheckFields, other: true, edit: setPCR(5, make([]byte, 64))},
	{name: "an empty cabundle", want: nitro.CheckFields, edit: set("cabundle", [][]byte{})},
	{name: "an empty certificate in cabundle", want: nitro.CheckFields, edit: set("cabundle", [][]byte{{}})},
	{name: "a certificate of 1025 bytes", want: nitro.CheckFields, edit: set("certificate", make([]byte, 1025))},
	{name: "nine certificates in cabundle", want: nitro.CheckFields, other: true, edit: func(_ *testing.T, w *world, d *nitrotest.Draft) {
		bundle := d.Get("cabundle").([][]byte)
		for len(bundle) < 9 {
			bundle = append(bundle, w.Root().Raw)
		}
		d.Set("cabundle", bundle)
	}},
	{name: "a public key of 1025 bytes", want: nitro.CheckFields, edit: set("public_key", make([]byte, 1025))},
	{name: "user data of 1025 bytes", want: nitro.CheckFields, edit: set("user_data", make([]byte, 1025))},
	{name: "a nonce of 1025 bytes", want: nitro.CheckFields, edit: set("nonce", make([]byte, 1025))},
	{name: "a nonce that is text", want: nitro.CheckEncoding, edit: set("nonce", "nonce")},
}

var certificateCases = []refused{
	{name: "a P-256 leaf", want: nitro.CheckLeaf, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		w.leafWith(t, d, elliptic.P256(), nil)
		d.Sign = func([]byte) []byte { return make([]byte, 96) }
	}},
	{name: "a P-256 leaf with a signature of its own size", want: nitro.CheckCOSE, other: true, edit: leaf(elliptic.P256(), nil)},
	{name: "a P-521 leaf", want: nitro.CheckLeaf, edit: func(t *testing.T, w *world, d *nitrotest.Draft) { // nitrite panics
		w.leafWith(t, d, elliptic.P521(), nil)
		d.Sign = func([]byte) []byte { return make([]byte, 96) }
	}},
	{name: "a leaf that is a CA", want: nitro.CheckLeaf, other: true, edit: leaf(elliptic.P384(), func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign
	})},
	{name: "a leaf that may sign certificates", want: nitro.CheckLeaf, other: true, edit: leaf(elliptic.P384(), func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })},
	{name: "a leaf without digitalSignature", want: nitro.CheckLeaf, other: true, edit: leaf(elliptic.P384(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })},
	{name: "a leaf signed with SHA-256", want: nitro.CheckLeaf, edit: leaf(elliptic.P384(), func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA256 })},
	{name: "a leaf with an unknown critical extension", want: nitro.CheckLeaf, edit: leaf(elliptic.P384(), func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	})},
	{name: "an expired leaf", want: nitro.CheckValidity, edit: leaf(elliptic.P384(), func(c *x509.Certificate) {
		c.NotAfter = time.Date(2026, 11, 1, 11, 59, 59, 0, time.UTC)
	})},
	{name: "a leaf of tomorrow", want: nitro.CheckValidity, edit: leaf(elliptic.P384(), func(c *x509.Certificate) {
		c.NotBefore = time.Date(2026, 11, 1, 12, 0, 1, 0, time.UTC)
	})},
	{name: "a leaf that is no certificate", want: nitro.CheckLeaf, edit: set("certificate", []byte("certificate"))},
	{name: "an authority that is no certificate", want: nitro.CheckChain, edit: func(_ *testing.T, w *world, d *nitrotest.Draft) {
		bundle := d.Get("cabundle").([][]byte)
		bundle[2] = []byte("certificate")
		d.Set("cabundle", bundle)
	}},
	{name: "another root", want: nitro.CheckRoot, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		*d = *w.otherPKI(t)
	}},
	{name: "another root with the name of ours", want: nitro.CheckRoot, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		bundle := d.Get("cabundle").([][]byte)
		bundle[0] = nitrotest.New(t, w.At).Root().Raw
		d.Set("cabundle", bundle)
	}, other: true}, // nitrite looks for a path on its own
	{name: "our root before another chain", want: nitro.CheckChain, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		*d = *w.otherPKI(t)
		bundle := d.Get("cabundle").([][]byte)
		bundle[0] = w.Root().Raw
		d.Set("cabundle", bundle)
	}},
	{name: "cabundle in the wrong order", want: nitro.CheckChain, other: true, edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) {
		bundle := d.Get("cabundle").([][]byte)
		bundle[1], bundle[2] = bundle[2], bundle[1]
		d.Set("cabundle", bundle)
	}},
	{name: "an authority left out", want: nitro.CheckChain, edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) {
		bundle := d.Get("cabundle").([][]byte)
		d.Set("cabundle", slices.Delete(bundle, 2, 3))
	}},
	{name: "an authority too many", want: nitro.CheckChain, other: true, edit: func(_ *testing.T, w *world, d *nitrotest.Draft) {
		d.Set("cabundle", append(d.Get("cabundle").([][]byte), w.Chain[3].Raw))
	}},
	{name: "an enclave's certificate as authority", want: nitro.CheckChain, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		w.extend(t, d, w.leaf)
	}},
	{name: "an authority beyond the path length", want: nitro.CheckChain, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		w.extend(t, d, nitrotest.Issue(t, w.Chain[3], authority(w), elliptic.P384()))
	}},
	{name: "an authority on P-256", want: nitro.CheckChain, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		w.exchange(t, d, nitrotest.Issue(t, w.Chain[2], authority(w), elliptic.P256()))
	}, other: true},
	{name: "an authority without keyCertSign", want: nitro.CheckChain, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		template := authority(w)
		template.KeyUsage = x509.KeyUsageDigitalSignature
		w.exchange(t, d, nitrotest.Issue(t, w.Chain[2], template, elliptic.P384()))
	}},
	{name: "an authority with name constraints", want: nitro.CheckChain, other: true, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		template := authority(w)
		template.PermittedDNSDomains, template.PermittedDNSDomainsCritical = []string{"example.com"}, true
		w.exchange(t, d, nitrotest.Issue(t, w.Chain[2], template, elliptic.P384()))
	}},
	{name: "an expired authority", want: nitro.CheckValidity, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		template := authority(w)
		template.NotAfter = w.At.Add(-time.Second)
		w.exchange(t, d, nitrotest.Issue(t, w.Chain[2], template, elliptic.P384()))
	}},
	{name: "an authority's name with another key", want: nitro.CheckChain, edit: func(t *testing.T, w *world, d *nitrotest.Draft) {
		w.issueFrom(t, d, nitrotest.New(t, w.At).Chain[3]) // the same names
	}},
}

// otherPKI is a good document under a root that nobody trusts.
func (w *world) otherPKI(t *testing.T) *nitrotest.Draft {
	other := nitrotest.New(t, w.At)
	return other.Draft(other.Leaf(t))
}

// authority is a template like that of the instance's.
func authority(w *world) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "another instance.example"}, NotBefore: w.At.Add(-time.Hour), NotAfter: w.At.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign,
	}
}

// exchange puts another authority in the place of the instance's, which issues the leaf.
func (w *world) exchange(t *testing.T, d *nitrotest.Draft, instance *nitrotest.Certificate) {
	t.Helper()
	bundle := d.Get("cabundle").([][]byte)
	bundle[3] = instance.Raw
	d.Set("cabundle", bundle)
	w.issueFrom(t, d, instance)
}

// extend appends an authority to the chain, which issues the leaf.
func (w *world) extend(t *testing.T, d *nitrotest.Draft, added *nitrotest.Certificate) {
	t.Helper()
	d.Set("cabundle", append(d.Get("cabundle").([][]byte), added.Raw))
	w.issueFrom(t, d, added)
}

func (w *world) issueFrom(t *testing.T, d *nitrotest.Draft, issuer *nitrotest.Certificate) {
	t.Helper()
	leaf := nitrotest.Issue(t, issuer, w.LeafTemplate(), elliptic.P384())
	d.Set("certificate", leaf.Raw)
	d.Key = leaf.Key
}

var meaningCases = []refused{
	{name: "PCR4 of another instance", want: nitro.CheckInstance, other: true, edit: setPCR(4, nitrotest.PCR("i-0123456789abcdef1"))},
	{name: "PCR4 zero", want: nitro.CheckInstance, other: true, edit: setPCR(4, make([]byte, sha512.Size384))},
	{name: "module_id of another instance", want: nitro.CheckInstance, other: true, edit: set("module_id", "i-0123456789abcdef1-enc0123456789abcdef")},
	{name: "debug", want: nitro.CheckDebug, other: true, edit: debug},
	{name: "timestamp 1", want: nitro.CheckTimestamp, other: true, edit: set("timestamp", 1)},
	{name: "a timestamp before the leaf", want: nitro.CheckTimestamp, other: true, edit: func(_ *testing.T, w *world, d *nitrotest.Draft) {
		d.Set("timestamp", w.leaf.NotBefore.UnixMilli()-1)
	}},
	{name: "a timestamp after the leaf", want: nitro.CheckTimestamp, other: true, edit: func(_ *testing.T, w *world, d *nitrotest.Draft) {
		d.Set("timestamp", w.leaf.NotAfter.UnixMilli()+1)
	}},
	{name: "older than five minutes", want: nitro.CheckFreshness, other: true, ask: func(w *world, e *nitro.Expected) {
		e.At = w.At.Add(nitro.DefaultMaxAge + time.Millisecond)
	}},
	{name: "older than asked", want: nitro.CheckFreshness, other: true, ask: func(w *world, e *nitro.Expected) {
		e.At, e.MaxAge = w.At.Add(1001*time.Millisecond), time.Second
	}},
	{name: "from the future", want: nitro.CheckFreshness, other: true, ask: func(w *world, e *nitro.Expected) {
		e.At = w.At.Add(-nitro.ClockSkew - time.Millisecond)
	}},
	{name: "no nonce", want: nitro.CheckNonce, other: true, edit: remove("nonce"), ask: func(_ *world, e *nitro.Expected) { e.Nonce = []byte("nonce") }},
	{name: "nonce null", want: nitro.CheckNonce, other: true, edit: set("nonce", nil), ask: func(_ *world, e *nitro.Expected) { e.Nonce = []byte("nonce") }},
	{name: "an empty nonce", want: nitro.CheckNonce, other: true, edit: set("nonce", []byte{}), ask: func(_ *world, e *nitro.Expected) { e.Nonce = []byte("nonce") }},
	{name: "a part of the nonce", want: nitro.CheckNonce, other: true, ask: func(_ *world, e *nitro.Expected) { e.Nonce = []byte("non") }},
	{name: "another PCR", want: nitro.CheckPCR, other: true, ask: func(_ *world, e *nitro.Expected) { e.PCRs = map[int]nitro.PCR{0: {}} }},
	{name: "a PCR that is not there", want: nitro.CheckPCR, other: true, ask: func(_ *world, e *nitro.Expected) { e.PCRs = map[int]nitro.PCR{16: {}} }},
	{name: "an image that is not golden", want: nitro.CheckGolden, other: true, ask: func(w *world, e *nitro.Expected) { e.Golden = goldenList(w, "another image", journal.TierNitro) }},
	{name: "golden values of TPMs", want: nitro.CheckGolden, other: true, ask: func(w *world, e *nitro.Expected) { e.Golden = goldenList(w, "image", journal.TierTPM) }},
	{name: "a golden list that has expired", want: golden.CheckValidity, other: true, ask: func(w *world, e *nitro.Expected) {
		e.Golden = goldenList(w, "image", journal.TierNitro)
		e.Golden.NotAfter = w.At.Add(-time.Second)
	}},
}

// goldenList has one set: PCR0 of an image.
func goldenList(w *world, image, tier string) *golden.List {
	set := &golden.Set{Name: "release 1", Tier: tier, NotAfter: w.At, PCRs: []golden.Register{{Index: 0, Values: [][]byte{nitrotest.PCR(image)}}}}
	return &golden.List{Version: 1, NotAfter: w.At, Sets: []*golden.Set{set}}
}

func TestGolden(t *testing.T) {
	w := newWorld(t)
	d, err := w.verifier(t).Verify(w.Draft(w.leaf).Seal(t), nitro.Expected{At: w.At, Golden: goldenList(w, "image", journal.TierNitro)})
	if err != nil || d.Golden == nil || d.Golden.Name != "release 1" {
		t.Errorf("%+v, %v", d, err)
	}
}

func debug(_ *testing.T, _ *world, d *nitrotest.Draft) {
	zero := make([]byte, sha512.Size384)
	d.Set("pcrs", pcrsWith(d, map[int][]byte{0: zero, 1: zero, 2: zero}))
}

// The documents that make nitrite panic are refused before it sees them, and it would not end the process if it did.
func TestPanicOfTheSecondOpinion(t *testing.T) {
	w := newWorld(t)
	draft := w.Draft(w.leaf)
	w.leafWith(t, draft, elliptic.P521(), nil)
	err := nitro.AskNitrite(draft.Seal(t), w.Root(), w.At)
	if err == nil || !strings.Contains(err.Error(), "panic: ") {
		t.Errorf("got %v, want its panic as an error", err)
	}
}
