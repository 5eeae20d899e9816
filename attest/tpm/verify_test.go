package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/journal"
)

func TestVerify(t *testing.T) {
	m := newMachine(t)
	o := m.options()
	o.Golden = list(7, sha256.Sum256([]byte{7}))
	r, err := Verify(m.make(t), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Golden == nil || r.Golden.Name != "machine" {
		t.Errorf("golden set %v", r.Golden)
	}
	if !r.Key.Public().Equal(&m.key.PublicKey) || string(r.Nonce) != nonce || r.Epoch[0] != 1 || r.Configuration[0] != 2 || !r.Time.Equal(noon) ||
		len(r.PCRs) != 8 || r.ResetCount != 3 || r.RestartCount != 1 || !r.Safe || r.FirmwareVersion != 7 {
		t.Errorf("%+v", r)
	}
}

// list is a golden list with one set of one PCR.
func list(pcr uint64, value [32]byte) *golden.List {
	set := &golden.Set{Name: "machine", Tier: journal.TierTPM, NotAfter: noon, PCRs: []golden.Register{{Index: pcr, Values: [][]byte{value[:]}}}}
	return &golden.List{Version: 1, NotAfter: noon, Sets: []*golden.Set{set}}
}

// Each row bends one thing of an honest machine, and names the check that must refuse it.
func TestRefusals(t *testing.T) {
	other := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	attributes := func(area *tpm2.TPMTPublic, bend func(*tpm2.TPMAObject)) { bend(&area.ObjectAttributes) }
	only := func(kind tpm2.TPMISTAttest, bend func(*tpm2.TPMSAttest)) func(tpm2.TPMISTAttest, *tpm2.TPMSAttest) {
		return func(k tpm2.TPMISTAttest, a *tpm2.TPMSAttest) {
			if k == kind {
				bend(a)
			}
		}
	}
	for _, c := range []struct {
		name string
		bend func(m *machine, o *Options)
		want attest.Check
	}{
		{"another nonce", func(m *machine, o *Options) { o.Nonce = []byte("another nonce of mine") }, CheckNonce},
		{"no nonce", func(m *machine, o *Options) { m.bundle = func(b *Bundle) { b.Nonce = nil } }, CheckNonce},
		{"a nonce where none is expected", func(m *machine, o *Options) { o.Nonce, o.WithoutNonce = nil, true }, CheckNonce},
		{"replay of yesterday", func(m *machine, o *Options) { o.Now = noon.Add(time.Hour) }, CheckFreshness},
		{"from the future", func(m *machine, o *Options) { o.Now = noon.Add(-time.Hour) }, CheckFreshness},

		{"unrestricted AK", func(m *machine, o *Options) { m.akArea = area(t, m.ak, false) }, CheckAttributes},
		{"restricted signing key", func(m *machine, o *Options) { m.keyArea = area(t, m.key, true) }, CheckAttributes},
		{"signing key is the AK", func(m *machine, o *Options) { m.keyArea = m.akArea }, CheckAttributes},
		{"not fixedTPM", func(m *machine, o *Options) { attributes(&m.keyArea, func(a *tpm2.TPMAObject) { a.FixedTPM = false }) }, CheckAttributes},
		{"not fixedParent", func(m *machine, o *Options) {
			attributes(&m.keyArea, func(a *tpm2.TPMAObject) { a.FixedParent = false })
		}, CheckAttributes},
		{"imported secret", func(m *machine, o *Options) {
			attributes(&m.keyArea, func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })
		}, CheckAttributes},
		{"with DA", func(m *machine, o *Options) { attributes(&m.keyArea, func(a *tpm2.TPMAObject) { a.NoDA = false }) }, CheckAttributes},
		{"decrypts too", func(m *machine, o *Options) { attributes(&m.keyArea, func(a *tpm2.TPMAObject) { a.Decrypt = true }) }, CheckAttributes},
		{"duplicable", func(m *machine, o *Options) {
			attributes(&m.keyArea, func(a *tpm2.TPMAObject) { a.EncryptedDuplication = true })
		}, CheckAttributes},
		{"AK not fixedTPM", func(m *machine, o *Options) { attributes(&m.akArea, func(a *tpm2.TPMAObject) { a.FixedTPM = false }) }, CheckAttributes},
		{"AK of an imported secret", func(m *machine, o *Options) {
			attributes(&m.akArea, func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })
		}, CheckAttributes},

		{"SHA-1 signatures", func(m *machine, o *Options) {
			m.akArea.Parameters = parameters(tpm2.TPMECCNistP256, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA1)
		}, CheckKey},
		{"ECDAA", func(m *machine, o *Options) {
			m.akArea.Parameters = parameters(tpm2.TPMECCNistP256, tpm2.TPMAlgECDAA, tpm2.TPMAlgSHA256)
		}, CheckKey},
		{"AK without a scheme", func(m *machine, o *Options) {
			m.akArea.Parameters = parameters(tpm2.TPMECCNistP256, tpm2.TPMAlgNull, tpm2.TPMAlgNull)
		}, CheckKey},
		{"P-384", func(m *machine, o *Options) {
			m.keyArea.Parameters = parameters(tpm2.TPMECCNistP384, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256)
		}, CheckKey},
		{"a point off the curve", func(m *machine, o *Options) {
			m.keyArea.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{1}}, Y: tpm2.TPM2BECCParameter{Buffer: []byte{1}}})
		}, CheckKey},
		{"names by SHA-384", func(m *machine, o *Options) { m.keyArea.NameAlg = tpm2.TPMAlgSHA384 }, CheckKey},

		{"signed by another key", func(m *machine, o *Options) { m.signer = other }, CheckCertified},
		{"signed by the signing key", func(m *machine, o *Options) { m.signer = m.key }, CheckCertified},
		{"certification of another bundle", func(m *machine, o *Options) {
			m.attest = only(tpm2.TPMSTAttestCertify, func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = make([]byte, 32) })
		}, CheckCertified},
		{"certification without extra data", func(m *machine, o *Options) {
			m.attest = only(tpm2.TPMSTAttestCertify, func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = nil })
		}, CheckCertified},
		{"no magic in the certification", func(m *machine, o *Options) {
			m.attest = only(tpm2.TPMSTAttestCertify, func(a *tpm2.TPMSAttest) { a.Magic = 0 })
		}, CheckCertified},
		{"an AK of the owner hierarchy", func(m *machine, o *Options) {
			m.attest = only(tpm2.TPMSTAttestCertify, func(a *tpm2.TPMSAttest) { a.QualifiedSigner.Buffer = nameOf(m.akName()) })
		}, CheckCertified},
		{"no magic in the quote", func(m *machine, o *Options) {
			m.attest = only(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { a.Magic = 0 })
		}, CheckQuote},
		{"quote of another bundle", func(m *machine, o *Options) {
			m.attest = only(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = make([]byte, 32) })
		}, CheckQuote},
		{"reset in between", func(m *machine, o *Options) {
			m.attest = only(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { a.ClockInfo.ResetCount++ })
		}, CheckQuote},
		{"quote before the certification", func(m *machine, o *Options) {
			m.attest = only(tpm2.TPMSTAttestQuote, func(a *tpm2.TPMSAttest) { a.ClockInfo.Clock = 1 })
		}, CheckQuote},

		{"no PCRs", func(m *machine, o *Options) { m.bundle = func(b *Bundle) { b.PCRs = nil } }, CheckQuote},
		{"no bank", func(m *machine, o *Options) { m.selection = &tpm2.TPMLPCRSelection{} }, CheckQuote},
		{"SHA-1 bank", func(m *machine, o *Options) {
			m.selection = &tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA1, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 1, 2, 3, 4, 5, 6, 7)}}}
		}, CheckQuote},
		{"two banks", func(m *machine, o *Options) {
			both := tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 1, 2, 3, 4, 5, 6, 7)}
			m.selection = &tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{both, both}}
		}, CheckQuote},
		{"values of PCRs that are not quoted", func(m *machine, o *Options) {
			m.selection = &tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 1)}}}
		}, CheckPCRs},
		{"quoted PCRs without values", func(m *machine, o *Options) {
			m.selection = &tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 1, 2, 3, 4, 5, 6, 7, 8)}}}
		}, CheckPCRs},

		{"foreign root", func(m *machine, o *Options) { o.Roots = newMachine(t).roots }, CheckEndorsement},
		{"EK certificate of a CA", func(m *machine, o *Options) {
			m.ek = m.endorse(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
		}, CheckEndorsement},
		{"EK certificate for signing", func(m *machine, o *Options) {
			m.ek = m.endorse(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
		}, CheckEndorsement},
		{"EK certificate that has ended", func(m *machine, o *Options) {
			m.ek = m.endorse(t, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) })
		}, CheckEndorsement},
		{"no certificate", func(m *machine, o *Options) { m.ek = []byte("no certificate") }, CheckEndorsement},

		{"AK that nobody has activated", func(m *machine, o *Options) { o.ActivatedAKs = [][]byte{nameOf([]byte("another"))} }, CheckActivation},
		{"other measurements", func(m *machine, o *Options) { o.Golden = list(7, [32]byte{1}) }, CheckGolden},
		{"golden values of a PCR that is not quoted", func(m *machine, o *Options) { o.Golden = list(11, [32]byte{1}) }, CheckGolden},
		{"golden values of enclaves", func(m *machine, o *Options) {
			o.Golden = list(7, sha256.Sum256([]byte{7}))
			o.Golden.Sets[0].Tier = journal.TierNitro
		}, CheckGolden},
		{"a golden list that has expired", func(m *machine, o *Options) {
			o.Golden = list(7, sha256.Sum256([]byte{7}))
			o.Golden.NotAfter = noon.Add(-time.Second)
		}, golden.CheckValidity},
		{"a log of other measurements", func(m *machine, o *Options) { o.EventLog = eventLog(logged{4, 1, digestOf("boot loader")}) }, CheckEventLog},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			o := m.options()
			c.bend(m, &o)
			if o.ActivatedAKs[0] != nil && !bytes.Equal(o.ActivatedAKs[0], nameOf([]byte("another"))) {
				o.ActivatedAKs = [][]byte{m.akName()} // of the AK as it was bent
			}
			_, err := Verify(m.make(t), o)
			var refusal *attest.Refusal
			if !errors.As(err, &refusal) || refusal.Check != c.want {
				t.Errorf("error %v, want check %q", err, c.want)
			}
		})
	}
}

// A verifier that was not told what it needs refuses to run, whatever the bundle says.
func TestOptions(t *testing.T) {
	m := newMachine(t)
	document := m.make(t)
	for name, bend := range map[string]func(*Options){
		"no roots":             func(o *Options) { o.Roots = nil },
		"empty roots":          func(o *Options) { o.Roots = new(Roots) },
		"no nonce":             func(o *Options) { o.Nonce = nil },
		"a short nonce":        func(o *Options) { o.Nonce = []byte("short") },
		"a nonce and none":     func(o *Options) { o.WithoutNonce = true },
		"nobody has activated": func(o *Options) { o.ActivatedAKs = nil },
	} {
		o := m.options()
		bend(&o)
		if _, err := Verify(document, o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestJournalDocument(t *testing.T) {
	m := newMachine(t)
	m.bundle = func(b *Bundle) { b.Nonce = nil }
	o := m.options()
	o.Nonce, o.WithoutNonce = nil, true
	if _, err := Verify(m.make(t), o); err != nil {
		t.Error(err)
	}
}

// answer decrypts the credential as the TPM with this EK does: RSA-OAEP, then the checks and the cipher of Part 1, 24.
func (m *machine) answer(t *testing.T, c *Challenge) []byte {
	t.Helper()
	names, bits := crypto.SHA256, 128
	if m.ekKey.Size() > 256 {
		names, bits = crypto.SHA384, 256
	}
	seed, err := rsa.DecryptOAEP(names.New(), nil, m.ekKey, c.Secret, []byte("IDENTITY\x00"))
	if err != nil {
		return nil
	}
	return decryptCredential(t, names, bits, seed, m.akName(), c.Credential)
}

// The exchange, and its record, for the right machine and for a cuckoo: a good EK of one machine with the AK of another.
func TestActivation(t *testing.T) {
	honest, cuckoo := newMachine(t), newMachine(t)
	c, err := NewChallenge(Identity{EKCertificate: honest.ek, AKPublic: tpm2.Marshal(honest.akArea)}, honest.roots, noon)
	if err != nil {
		t.Fatal(err)
	}
	activator := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	if _, err := c.Record(activator, noon); err == nil {
		t.Error("a record of a challenge that nobody has answered")
	}
	if err := c.Finish(honest.answer(t, c)); err != nil {
		t.Fatal(err)
	}
	record := must1(c.Record(activator, noon))(t)
	if err := c.Finish(nil); err == nil {
		t.Error("a challenge was used twice")
	}

	c, err = NewChallenge(Identity{EKCertificate: honest.ek, AKPublic: tpm2.Marshal(cuckoo.akArea)}, honest.roots, noon)
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string][]byte{"its own TPM's": cuckoo.answer(t, c), "none": nil, "zeroes": make([]byte, SecretSize)} {
		again := *c
		if err := again.Finish(answer); !errors.Is(err, CheckActivation) {
			t.Errorf("cuckoo's answer, %s: error %v", name, err)
		}
		if _, err := again.Record(activator, noon); err == nil {
			t.Errorf("cuckoo's answer, %s: there is a record", name)
		}
	}

	bend := func(i int) []byte {
		b := bytes.Clone(record)
		b[i] ^= 1
		return b
	}
	stranger := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	for _, v := range []struct {
		name    string
		machine *machine
		ek      []byte
		record  []byte
		trusted *ecdsa.PrivateKey
		want    error
	}{
		{"the honest machine", honest, honest.ek, record, activator, nil},
		{"a stranger's record", honest, honest.ek, record, stranger, CheckActivation},
		{"no record", honest, honest.ek, nil, activator, CheckActivation},
		{"a record that was changed", honest, honest.ek, bend(len(record) - 1), activator, CheckActivation},
		{"the cuckoo with the record of the honest machine", cuckoo, honest.ek, record, activator, CheckActivation},
	} {
		v.machine.bundle = func(b *Bundle) { b.EKCertificate, b.Activation = v.ek, v.record }
		o := honest.options()
		o.ActivatedAKs, o.Activators = nil, []*ecdsa.PublicKey{&v.trusted.PublicKey}
		r, err := Verify(v.machine.make(t), o)
		if !errors.Is(err, v.want) {
			t.Errorf("%s: error %v, want %v", v.name, err, v.want)
		}
		if err == nil && r.EKCertificate == nil {
			t.Errorf("%s: without the EK certificate", v.name)
		}
		// Whoever has activated the AK himself trusts it, whatever certificate it hides behind; that one is not reported.
		o.ActivatedAKs = [][]byte{v.machine.akName()}
		if r, err = Verify(v.machine.make(t), o); err != nil || (r.EKCertificate != nil) != (v.want == nil) {
			t.Errorf("%s, its AK named: %v, or an EK certificate that nothing ties to it", v.name, err)
		}
	}
	for i := range record {
		if _, _, err := ParseActivation(bend(i)); err == nil {
			t.Errorf("a record with byte %d changed is taken", i)
		}
	}
}

// Every byte of a bundle matters, whichever of its bits changes.
func TestEveryByte(t *testing.T) {
	m := newMachine(t)
	document, o := m.make(t), m.options()
	for i := range document {
		bit := byte(1) << (i % 8)
		document[i] ^= bit
		if _, err := Verify(document, o); err == nil {
			t.Fatalf("byte %d changed by %#x, and the bundle verifies", i, bit)
		}
		document[i] ^= bit
	}
}

// FuzzVerify: no bundle but the honest one verifies, and none brings the verifier down.
func FuzzVerify(f *testing.F) {
	m := newMachine(f)
	document, o := m.make(f), m.options()
	f.Add(document)
	f.Add(document[:100])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Verify(data, o); err == nil && !bytes.Equal(data, document) {
			t.Error("a forged bundle verifies")
		}
		_, _ = Claimed(data)
		_, _, _ = ParseActivation(data)
		_, _ = ParsePublic(data, SigningKey)
	})
}

// BenchmarkVerify reports how many bundles a second are verified, one after the other.
func BenchmarkVerify(b *testing.B) {
	m := newMachine(b)
	document, o := m.make(b), m.options()
	for b.Loop() {
		if _, err := Verify(document, o); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verifications/s")
}
