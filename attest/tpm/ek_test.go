package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// issue makes a certificate under an issuer, or a self-signed one without.
func issue(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, issuer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	return must1(x509.ParseCertificate(must1(x509.CreateCertificate(rand.Reader, template, parent, key, issuer))(t)))(t)
}

// tpmSAN is a critical name as vendors write it: manufacturer, model, version, each in a set of its own or all in one.
func tpmSAN(t testing.TB, one bool) pkix.Extension {
	t.Helper()
	values := []attribute{}
	for _, a := range []struct {
		oid  asn1.ObjectIdentifier
		text string
	}{{tpmManufacturer, "id:494E5443"}, {tpmModel, "ADL"}, {tpmVersion, "id:02580012"}} {
		values = append(values, attribute{a.oid, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(a.text)}})
	}
	sets := [][]attribute{values}
	if !one {
		sets = [][]attribute{{values[0]}, {values[1]}, {values[2]}}
	}
	var rdns []byte
	for _, set := range sets {
		rdns = append(rdns, must1(asn1.MarshalWithParams(set, "set"))(t)...)
	}
	name := must1(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: rdns}))(t)
	general := must1(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: directoryName, IsCompound: true, Bytes: name}))(t)
	return pkix.Extension{Id: subjectAltName, Critical: true, Value: must1(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: general}))(t)}
}

// What an EK certificate may be, beside the rows of TestRefusals.
func TestEndorse(t *testing.T) {
	m := newMachine(t)
	ca := func(name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		return issue(t, &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}, parent, &key.PublicKey, parentKey), key
	}
	between, betweenKey := ca("between", m.ca, m.caKey)
	leaf := func(edit func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(9), NotBefore: noon.AddDate(0, -1, 0), NotAfter: noon.AddDate(1, 0, 0),
			KeyUsage: x509.KeyUsageKeyEncipherment, ExtraExtensions: []pkix.Extension{tpmSAN(t, false)}}
		edit(c)
		return c
	}
	under := func(parent *x509.Certificate, key *ecdsa.PrivateKey, edit func(*x509.Certificate)) []byte {
		return issue(t, leaf(edit), parent, &m.ekKey.PublicKey, key).Raw
	}
	plain := func(*x509.Certificate) {}
	san := func(value []byte) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: subjectAltName, Critical: true, Value: value}}
		}
	}
	for _, c := range []struct {
		name         string
		der          []byte
		intermediate [][]byte
		ok           bool
	}{
		{"as vendors make them", under(m.ca, m.caKey, plain), nil, true},
		{"all of the name in one set", under(m.ca, m.caKey, func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{tpmSAN(t, true)} }), nil, true},
		{"no name", under(m.ca, m.caKey, func(c *x509.Certificate) { c.ExtraExtensions = nil }), nil, true},
		{"the usage of EK certificates", under(m.ca, m.caKey, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{tcgEKCertificate} }), nil, true},
		{"that usage and another", under(m.ca, m.caKey, func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}, tcgEKCertificate}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), nil, true},
		{"for key agreement", under(m.ca, m.caKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), nil, true},
		{"an intermediate that came along", under(between, betweenKey, plain), [][]byte{between.Raw}, true},

		{"an intermediate that is missing", under(between, betweenKey, plain), nil, false},
		{"an intermediate that is garbage", under(m.ca, m.caKey, plain), [][]byte{[]byte("garbage")}, false},
		{"the usage of servers", under(m.ca, m.caKey, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, false},
		{"the usage of AK certificates", under(m.ca, m.caKey, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }), nil, false},
		{"a critical name that is garbage", under(m.ca, m.caKey, san([]byte{0x30, 0x02, 0x88, 0x00})), nil, false},
		{"a critical name without a TPM", under(m.ca, m.caKey, san([]byte{0x30, 0x06, 0x88, 0x04, 1, 2, 3, 4})), nil, false},
		{"another critical extension", under(m.ca, m.caKey, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := m.roots.Endorse(c.der, c.intermediate, noon); (err == nil) != c.ok || err != nil && !errors.Is(err, CheckEndorsement) {
				t.Errorf("error %v, want accepted: %v", err, c.ok)
			}
		})
	}
	// What comes along is never a root, also when it is self-signed.
	own := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "own"}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	self := issue(t, root, root, &own.PublicKey, own)
	if _, err := m.roots.Endorse(issue(t, leaf(plain), self, &m.ekKey.PublicKey, own).Raw, [][]byte{self.Raw}, noon); !errors.Is(err, CheckEndorsement) {
		t.Errorf("a root of its own: %v", err)
	}
}

func TestTPMName(t *testing.T) {
	m, activator := newMachine(t), must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	for _, one := range []bool{false, true} {
		m.ek = m.endorse(t, func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{tpmSAN(t, one)} })
		c := must1(NewChallenge(Identity{EKCertificate: m.ek, AKPublic: tpm2.Marshal(m.akArea)}, m.roots, noon))(t)
		if err := c.Finish(m.answer(t, c)); err != nil {
			t.Fatal(err)
		}
		record, o := must1(c.Record(activator, noon))(t), m.options()
		m.bundle, o.Activators = func(b *Bundle) { b.Activation = record }, []*ecdsa.PublicKey{&activator.PublicKey}
		r, err := Verify(m.make(t), o)
		if err != nil || r.TPM != (TPMName{"INTC", "ADL", "id:02580012"}) {
			t.Errorf("%+v, %v", r, err)
		}
	}
	for text, want := range map[string]string{"id:494E5443": "INTC", "id:414D4400": "AMD", "id:49465800": "IFX", "id:1B5B306D": "id:1B5B306D", "id:00000000": "id:00000000", "Infineon": "Infineon", "\x1b[0m": "?[0m"} {
		if got := vendor(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A folder of roots: self-signed certificates are trusted, others are not, files of both forms are read, and one that cannot be is
// an error.
func TestLoadRoots(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadRoots(dir); err == nil {
		t.Error("an empty folder")
	}
	key := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	between := issue(t, &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "between"}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, m.ca, &key.PublicKey, m.caKey)
	leaf := issue(t, &x509.Certificate{SerialNumber: big.NewInt(9), NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageKeyEncipherment}, between, &m.ekKey.PublicKey, key)
	write("between.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: between.Raw}))
	if _, err := LoadRoots(dir); err == nil {
		t.Error("a folder without a self-signed certificate")
	}
	write("root.der", m.ca.Raw)
	write(".hidden", []byte("not read"))
	roots := must1(LoadRoots(dir))(t)
	if _, err := roots.Endorse(leaf.Raw, nil, noon); err != nil {
		t.Error(err)
	}
	write("README", []byte("no certificate"))
	if _, err := LoadRoots(dir); err == nil {
		t.Error("a file that is no certificate")
	}
	if _, err := LoadRoots(filepath.Join(dir, "missing")); err == nil {
		t.Error("a folder that is not there")
	}
}

// Which keys an EK may have. That TPMs derive these keys from these templates is tested in package enclave/signer/tpm.
func TestEKTemplates(t *testing.T) {
	rsaKey := func(bits int) crypto.PublicKey { return &must1(rsa.GenerateKey(rand.Reader, bits))(t).PublicKey }
	curve := func(c elliptic.Curve) crypto.PublicKey {
		return &must1(ecdsa.GenerateKey(c, rand.Reader))(t).PublicKey
	}
	odd := *rsaKey(2048).(*rsa.PublicKey)
	odd.E = 3
	for _, c := range []struct {
		name string
		key  crypto.PublicKey
		hash tpm2.TPMAlgID // of names; 0: refused
	}{
		{"RSA 2048", rsaKey(2048), tpm2.TPMAlgSHA256},
		{"RSA 3072", rsaKey(3072), tpm2.TPMAlgSHA384},
		{"P-256", curve(elliptic.P256()), tpm2.TPMAlgSHA256},
		{"P-384", curve(elliptic.P384()), tpm2.TPMAlgSHA384},
		{"RSA 4096", &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 4095, 1), E: 65537}, tpm2.TPMAlgSHA384},
		{"RSA 1024", &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}, 0},
		{"another exponent", &odd, 0},
		{"P-521", curve(elliptic.P521()), 0},
		{"Ed25519", []byte("another kind"), 0},
	} {
		public, err := ekPublic(&x509.Certificate{PublicKey: c.key})
		if c.hash == 0 {
			if !errors.Is(err, CheckEndorsement) {
				t.Errorf("%s: %v, %v", c.name, public, err)
			}
			continue
		}
		if err != nil || public.NameAlg != c.hash {
			t.Errorf("%s: %+v, %v", c.name, public, err)
			continue
		}
		if _, err := tpm2.ImportEncapsulationKey(public); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, template := range must1(EKTemplates(&x509.Certificate{PublicKey: c.key}))(t) {
			if template.Area.NameAlg != c.hash || template.ByPassword != bool(template.Area.ObjectAttributes.UserWithAuth) {
				t.Errorf("%s: %+v", c.name, template)
			}
		}
	}
}

// Activation with RSA keys of the high range, in software: RSA 4096 is a kind that swtpm does not make.
func TestActivationOfLargeKeys(t *testing.T) {
	for _, bits := range []int{3072, 4096} {
		m := newMachine(t)
		m.ekKey = must1(rsa.GenerateKey(rand.Reader, bits))(t)
		c := must1(NewChallenge(Identity{EKCertificate: m.endorse(t, func(*x509.Certificate) {}), AKPublic: tpm2.Marshal(m.akArea)}, m.roots, noon))(t)
		if message, err := ParseMessage(c.Message()); err != nil || !bytes.Equal(message.Secret, c.Secret) {
			t.Errorf("RSA %d: a message that cannot be read: %v", bits, err)
		}
		if err := c.Finish(m.answer(t, c)); err != nil {
			t.Errorf("RSA %d: %v", bits, err)
		}
	}
}

func FuzzTPMName(f *testing.F) {
	f.Add(tpmSAN(f, true).Value)
	f.Add(tpmSAN(f, false).Value)
	f.Add([]byte{0x30, 0x04, 0xa4, 0x02, 0x30, 0x00})
	f.Fuzz(func(t *testing.T, extension []byte) {
		n, err := parseTPMName(extension)
		if err != nil {
			return
		}
		for _, text := range []string{n.Manufacturer, n.Model, n.Version} {
			if text != printable(text) {
				t.Errorf("%q is not printable", text)
			}
		}
	})
}

// The high range's policy is PolicyOR of the low range's and of one in NV, by SHA-384 (EK Credential Profile, B.6.4).
func TestPolicyB384(t *testing.T) {
	policyA := must1(hex.DecodeString("8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"))(t)
	policyC := must1(hex.DecodeString("d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"))(t)
	h := crypto.SHA384.New()
	h.Write(make([]byte, 48))
	h.Write([]byte{0, 0, 1, 0x71}) // TPM_CC_PolicyOR (Part 2, 6.5.2)
	h.Write(policyA)
	h.Write(policyC)
	if got := h.Sum(nil); !bytes.Equal(got, policyB384) {
		t.Errorf("%x", got)
	}
}

// What is no bundle in the one encoding is refused before anything in it is looked at.
func TestDecodeRefuses(t *testing.T) {
	m := newMachine(t)
	document := m.make(t)
	refused := func(name string, data []byte) {
		t.Helper()
		if _, err := Verify(data, m.options()); !errors.Is(err, CheckFormat) {
			t.Errorf("%s: error %v", name, err)
		}
		if _, err := Claimed(data); !errors.Is(err, CheckFormat) {
			t.Errorf("%s, claimed: error %v", name, err)
		}
	}
	for i := range document {
		refused("cut off", document[:i])
	}
	const head, version = 1, 2 // bytes: the map of 14 pairs, then 1: 1
	refused("something behind it", append(bytes.Clone(document), 0))
	refused("too large", append(bytes.Clone(document), make([]byte, MaxBundleSize)...))
	refused("a key twice", append(append([]byte{document[0] + 1}, document[head:head+version]...), document[head:]...))
	refused("an unknown key", append(append([]byte{document[0] + 1}, document[head:]...), 0x18, 99, 0))
	refused("an indefinite map", append(append([]byte{0xbf}, document[head:]...), 0xff))
	refused("a longer head", append([]byte{0xb8, document[0] & 0x1f}, document[head:]...))
	refused("a tag", append([]byte{0xc1}, document...))
	refused("another version", append([]byte{document[0], 1, 2}, document[head+version:]...))
	for name, bend := range map[string]func(*Bundle){
		"PCR 24":                   func(b *Bundle) { b.PCRs[7].Index = 24 },
		"PCRs out of order":        func(b *Bundle) { b.PCRs[7].Index = 1 },
		"too long a nonce":         func(b *Bundle) { b.Nonce = make([]byte, MaxNonceSize+1) },
		"too long a certificate":   func(b *Bundle) { b.EKCertificate = make([]byte, MaxCertificateSize+1) },
		"a short signature":        func(b *Bundle) { b.QuotedSignature = make([]byte, SignatureSize-1) },
		"an empty intermediate":    func(b *Bundle) { b.Intermediates = [][]byte{{}} },
		"four intermediates":       func(b *Bundle) { b.Intermediates = [][]byte{{1}, {1}, {1}, {1}} },
		"too long an intermediate": func(b *Bundle) { b.Intermediates = [][]byte{make([]byte, MaxCertificateSize+1)} },
	} {
		b := must1(Decode(document))(t)
		bend(b)
		if _, err := b.Encode(); !errors.Is(err, CheckFormat) {
			t.Errorf("%s: encoded: %v", name, err)
		}
	}
	for name, at := range map[string]int64{"the first moment": -1 << 63, "the last moment": 1<<63 - 1, "before 1970": -1} {
		m.bundle = func(b *Bundle) { b.Time = at }
		if _, err := Verify(m.make(t), m.options()); !errors.Is(err, CheckFreshness) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	m.bundle = func(b *Bundle) { b.Intermediates = [][]byte{m.ca.Raw} }
	if _, err := Verify(m.make(t), m.options()); err != nil {
		t.Errorf("with an intermediate: %v", err)
	}
}
