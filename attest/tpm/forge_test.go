package tpm

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/journal"
)

// noon is when the tests take place.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func must1[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// machine is a TPM in software whose every answer the test decides: what a forger can do who has a good EK certificate and
// an AK that somebody has activated. Real TPMs are tested in package enclave/signer/tpm.
type machine struct {
	roots     *Roots
	ca        *x509.Certificate
	caKey     *ecdsa.PrivateKey
	ek        []byte
	ekKey     *rsa.PrivateKey
	ak, key   *ecdsa.PrivateKey
	akArea    tpm2.TPMTPublic
	keyArea   tpm2.TPMTPublic
	attest    func(kind tpm2.TPMISTAttest, a *tpm2.TPMSAttest) // bends what is signed
	bundle    func(b *Bundle)                                  // bends the bundle before the signatures
	selection *tpm2.TPMLPCRSelection
	signer    *ecdsa.PrivateKey // instead of the AK
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{roots: new(Roots)}
	m.caKey = must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker of TPMs"}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	m.ca = must1(x509.ParseCertificate(must1(x509.CreateCertificate(rand.Reader, root, root, &m.caKey.PublicKey, m.caKey))(t)))(t)
	m.roots.Add(m.ca)
	m.ekKey = must1(rsa.GenerateKey(rand.Reader, 2048))(t)
	m.ek = m.endorse(t, func(*x509.Certificate) {})
	m.ak = must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	m.key = must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	m.akArea, m.keyArea = area(t, m.ak, true), area(t, m.key, false)
	return m
}

// endorse issues the EK certificate.
func (m *machine) endorse(t testing.TB, bend func(*x509.Certificate)) []byte {
	t.Helper()
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: noon.AddDate(0, -1, 0), NotAfter: noon.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageKeyEncipherment,
		ExtraExtensions: []pkix.Extension{{Id: subjectAltName, Critical: true, Value: []byte{0x30, 0x04, 0xa4, 0x02, 0x30, 0x00}}},
	}
	bend(leaf)
	return must1(x509.CreateCertificate(rand.Reader, leaf, m.ca, &m.ekKey.PublicKey, m.caKey))(t)
}

// area is the public area of a key as a TPM would make it.
func area(t testing.TB, key *ecdsa.PrivateKey, restricted bool) tpm2.TPMTPublic {
	t.Helper()
	point := must1(key.PublicKey.Bytes())(t)
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true, Restricted: restricted,
		},
		Parameters: parameters(tpm2.TPMECCNistP256, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	}
}

func parameters(curve tpm2.TPMECCCurve, scheme tpm2.TPMAlgID, hash tpm2.TPMAlgID) tpm2.TPMUPublicParms {
	p := &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, CurveID: curve,
		Scheme: tpm2.TPMTECCScheme{Scheme: scheme}, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
	}
	switch scheme {
	case tpm2.TPMAlgECDSA:
		p.Scheme.Details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash})
	case tpm2.TPMAlgECDAA:
		p.Scheme.Details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSchemeECDAA{HashAlg: hash})
	}
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, p)
}

const nonce = "nonce of the verifier"

// make makes a bundle, with everything that the test has bent.
func (m *machine) make(t testing.TB) []byte {
	t.Helper()
	b := &Bundle{
		Version: Version, EKCertificate: m.ek, AKPublic: tpm2.Marshal(m.akArea), KeyPublic: tpm2.Marshal(m.keyArea),
		Epoch: journal.EpochID{1}, Configuration: journal.Hash{2}, Nonce: []byte(nonce), Time: noon.UnixNano(),
	}
	for i := range uint64(8) {
		b.PCRs = append(b.PCRs, PCR{Index: i, Value: sha256.Sum256([]byte{byte(i)})})
	}
	if m.bundle != nil {
		m.bundle(b)
	}
	certify := m.statement(b, tpm2.TPMSTAttestCertify)
	certify.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{
		Name: tpm2.TPM2BName{Buffer: nameOf(tpm2.Marshal(m.keyArea))}, QualifiedName: tpm2.TPM2BName{Buffer: nameOf(nil)},
	})
	b.Certified, b.CertifiedSignature = m.sign(t, certify)
	quote := m.statement(b, tpm2.TPMSTAttestQuote)
	h := sha256.New()
	var indices []uint
	for _, p := range b.PCRs {
		h.Write(p.Value[:])
		indices = append(indices, uint(p.Index))
	}
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(indices...)}}}
	if m.selection != nil {
		selection = *m.selection
	}
	quote.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: selection, PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}})
	b.Quoted, b.QuotedSignature = m.sign(t, quote)
	return must1(b.Encode())(t)
}

func (m *machine) statement(b *Bundle, kind tpm2.TPMISTAttest) *tpm2.TPMSAttest {
	qualifying := b.Qualifying()
	a := &tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: kind, QualifiedSigner: tpm2.TPM2BName{Buffer: endorsementPrimary(m.akName())},
		ExtraData: tpm2.TPM2BData{Buffer: qualifying[:]}, ClockInfo: tpm2.TPMSClockInfo{Clock: 1000, ResetCount: 3, RestartCount: 1, Safe: true},
		FirmwareVersion: 7,
	}
	if m.attest != nil {
		m.attest(kind, a)
	}
	return a
}

func (m *machine) sign(t testing.TB, a *tpm2.TPMSAttest) (statement, signature []byte) {
	t.Helper()
	statement = tpm2.Marshal(*a)
	key := m.ak
	if m.signer != nil {
		key = m.signer
	}
	digest := sha256.Sum256(statement)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature = make([]byte, SignatureSize)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return statement, signature
}

func (m *machine) akName() []byte { return nameOf(tpm2.Marshal(m.akArea)) }

// options accept what an honest machine makes.
func (m *machine) options() Options {
	return Options{Roots: m.roots, Now: noon, Nonce: []byte(nonce), MaxAge: time.Minute, ActivatedAKs: [][]byte{m.akName()}}
}

// decryptCredential is the TPM's half of credential activation (Part 1, 24) for an EK with names by that hash and a cipher of so
// many bits inside; nil when the credential is not for this name.
func decryptCredential(t *testing.T, names crypto.Hash, bits int, seed, name, credential []byte) []byte {
	t.Helper()
	size := names.Size()
	if len(credential) < 2+size {
		return nil
	}
	outer, encrypted := credential[2:2+size], credential[2+size:]
	mac := hmac.New(names.New, tpm2.KDFa(names, seed, "INTEGRITY", nil, nil, 8*size))
	mac.Write(encrypted)
	mac.Write(name)
	if !hmac.Equal(mac.Sum(nil), outer) {
		return nil
	}
	block, err := aes.NewCipher(tpm2.KDFa(names, seed, "STORAGE", name, nil, bits))
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, len(encrypted))
	//lint:ignore SA1019 it is the TPM's mode (Part 1, 24.4)
	cipher.NewCFBDecrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(plain, encrypted)
	return plain[2:]
}
