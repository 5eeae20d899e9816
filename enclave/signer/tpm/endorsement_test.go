package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/signer"
)

// vendor is a maker of TPMs with an intermediate authority, for EKs of kinds that swtpm_setup does not certify.
type vendor struct {
	root, between       *x509.Certificate
	rootKey, betweenKey *ecdsa.PrivateKey
}

func newVendor(t testing.TB) *vendor {
	t.Helper()
	v := &vendor{rootKey: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t), betweenKey: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)}
	ca := func(name string, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now().Add(-time.Hour), NotAfter: now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		if parent == nil {
			parent = c
		}
		return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by))(t)))(t)
	}
	v.root = ca("vendor", nil, v.rootKey, v.rootKey)
	v.between = ca("factory", v.root, v.betweenKey, v.rootKey)
	return v
}

func (v *vendor) certify(t testing.TB, ek crypto.PublicKey) []byte {
	t.Helper()
	usage := x509.KeyUsageKeyEncipherment
	if _, ok := ek.(*ecdsa.PublicKey); ok {
		usage = x509.KeyUsageKeyAgreement
	}
	return must(x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: now().Add(-time.Hour), NotAfter: now().Add(time.Hour), KeyUsage: usage}, v.between, ek, v.betweenKey))(t)
}

func (v *vendor) roots() *attest.Roots {
	r := new(attest.Roots)
	r.Add(v.root)
	return r
}

// derive makes an EK in the TPM from a template and returns its public key.
func derive(t testing.TB, tpm transport.TPM, template attest.EKTemplate) crypto.PublicKey {
	t.Helper()
	response := must(execute(tpm, tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template.Area),
	}))(t)
	defer flush(tpm, response.ObjectHandle)
	return must(tpm2.Pub(*must(response.OutPublic.Contents())(t)))(t)
}

// EKs of every kind: credential activation over the certificate that a vendor made for the key of the profile's template, with an
// intermediate certificate that only the evidence brings.
func TestEndorsementKeys(t *testing.T) {
	v := newVendor(t)
	for _, c := range []struct {
		name string
		like crypto.PublicKey // which template
		at   int              // of the templates for it
	}{
		{"RSA 2048", &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int), 2047, 1), E: 65537}, 0},
		{"RSA 3072", &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int), 3071, 1), E: 65537}, 0},
		{"RSA 4096", &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int), 4095, 1), E: 65537}, 0},
		{"P-256", &ecdsa.PublicKey{Curve: elliptic.P256()}, 0},
		{"P-384", &ecdsa.PublicKey{Curve: elliptic.P384()}, 0},
		{"P-384 of a template with zeroes", &ecdsa.PublicKey{Curve: elliptic.P384()}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			machine := plain(t)
			template := must(attest.EKTemplates(&x509.Certificate{PublicKey: c.like}))(t)[c.at]
			d := device(t, machine)
			if _, err := execute(d, tpm2.TestParms{Parameters: parametersOf(template.Area)}); err != nil {
				d.Close()
				t.Skipf("this swtpm makes no such key: %v", err)
			}
			public := derive(t, d, template)
			d.Close()
			config := Configuration{EKCertificate: v.certify(t, public), Intermediates: [][]byte{v.between.Raw}}
			k := open(t, device(t, machine), t.TempDir(), config)
			activate(t, k, v.roots())
			verifyWith(t, k, v.roots())

			// The same TPM under a certificate of another one's key.
			k.Close()
			other := &must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t).PublicKey
			stranger := open(t, device(t, machine), t.TempDir(), Configuration{EKCertificate: v.certify(t, other), Intermediates: [][]byte{v.between.Raw}})
			if _, err := stranger.Activate(t.Context(), []byte{1}, []byte{1}); err == nil || !strings.Contains(err.Error(), "derives another key than its EK certificate has") {
				t.Errorf("another TPM's certificate: %v", err)
			}
		})
	}
}

func parametersOf(area tpm2.TPMTPublic) tpm2.TPMTPublicParms {
	return tpm2.TPMTPublicParms{Type: area.Type, Parameters: area.Parameters}
}

func verifyWith(t testing.TB, k *Key, roots *attest.Roots) {
	t.Helper()
	nonce := []byte("nonce of a verifier")
	e := must(k.Evidence(t.Context(), nonce, signer.Binding{}))(t)
	if _, err := attest.Verify(e.Document, attest.Options{Roots: roots, Nonce: nonce, ActivatedAKs: [][]byte{akName(t, k)}}); err != nil {
		t.Error(err)
	}
}

// A challenge for another TPM is refused as that, also where the TPM says FAILURE, as libtpms does for a secret that it cannot decrypt.
func TestChallengeForAnotherTPM(t *testing.T) {
	ca := tpmtest.NewCA(t)
	here := open(t, device(t, tpmtest.Start(t, ca.Make(t))), t.TempDir(), Configuration{})
	there := open(t, device(t, tpmtest.Start(t, ca.Make(t))), t.TempDir(), Configuration{})
	c := must(attest.NewChallenge(*must(there.Identity(t.Context()))(t), must(attest.LoadRoots(ca.Roots))(t), time.Now()))(t)
	_, err := here.Activate(t.Context(), c.Credential, c.Secret)
	if err == nil || !strings.HasSuffix(err.Error(), "the challenge is for another EK or AK") || strings.Contains(err.Error(), "power the machine off") {
		t.Errorf("error %v", err)
	}
}

// swtpm_setup certifies an EK on P-384 (NV 0x01c00016), as TPMs of the high range have it; with the roots of swtpm's own CA.
func TestCertifiedP384(t *testing.T) {
	ca := tpmtest.NewCA(t)
	machine := tpmtest.Start(t, ca.Make(t))
	d := device(t, machine)
	der, err := readNV(d, 0x01c00016)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if der, err = trimCertificate(der); err != nil {
		t.Fatal(err)
	}
	c := must(x509.ParseCertificate(der))(t)
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
		t.Fatalf("an EK of type %T", c.PublicKey)
	}
	roots := must(attest.LoadRoots(ca.Roots))(t)
	k := open(t, device(t, machine), t.TempDir(), Configuration{EKCertificate: der})
	activate(t, k, roots)
	verifyWith(t, k, roots)
}

// ek_certificate names one certificate in DER, or in PEM with those behind it.
func TestConfiguredCertificates(t *testing.T) {
	v := newVendor(t)
	dir := t.TempDir()
	ek := v.certify(t, &v.rootKey.PublicKey)
	block := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	for name, c := range map[string]struct {
		text          string
		intermediates int // -1: refused
	}{
		"DER": {string(ek), 0}, "PEM": {block(ek), 0}, "a chain": {block(ek) + block(v.between.Raw) + block(v.root.Raw), 2},
		"empty": {"", -1}, "garbage": {"garbage", -1}, "garbage in PEM": {block([]byte("x")), -1}, "cut off": {string(ek[:100]), -1},
		"too many": {strings.Repeat(block(ek), 2+attest.MaxIntermediates), -1},
	} {
		for file, text := range map[string]string{"ek": c.text, "tpm.conf": "ek_certificate = ek\n"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := ReadConfiguration(filepath.Join(dir, "tpm.conf"))
		if (err == nil) != (c.intermediates >= 0) || err == nil && (string(got.EKCertificate) != string(ek) || len(got.Intermediates) != c.intermediates) {
			t.Errorf("%s: %d intermediates, %v", name, len(got.Intermediates), err)
		}
		if err != nil && errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
