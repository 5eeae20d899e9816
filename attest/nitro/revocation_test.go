package nitro_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"testing"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
)

// extension is an issuing distribution point with DER of its content.
func distributionPoint(der string) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte(der)}}
	}
}

// fullName is the content of an issuing distribution point with one URI, and what follows it.
func fullName(url, more string) string {
	wrap := func(tag byte, s string) string { return string([]byte{tag, byte(len(s))}) + s }
	return wrap(0x30, wrap(0xa0, wrap(0xa0, wrap(0x86, url)))+more)
}

func TestRevocation(t *testing.T) {
	w := newWorld(t)
	other := nitrotest.New(t, w.At) // has the same names
	region, zone, instance := w.Chain[1].Certificate, w.Chain[2].Certificate, w.Chain[3].Certificate
	stale := func(l *x509.RevocationList) { l.NextUpdate = w.At.Add(-time.Second) }
	early := func(l *x509.RevocationList) { l.ThisUpdate = w.At.Add(time.Minute) }
	ofRoot, ofRegion := w.RevocationList(t, 0, nil), w.RevocationList(t, 1, nil)
	for _, c := range []struct {
		name  string
		lists []*x509.RevocationList
		want  attest.Check
	}{
		{"no lists", nil, ""},
		{"all that certificates name", []*x509.RevocationList{ofRoot, ofRegion}, ""},
		{"another certificate revoked", []*x509.RevocationList{w.RevocationList(t, 0, nil, other.Chain[1].Certificate), ofRegion}, ""},
		{"region revoked", []*x509.RevocationList{w.RevocationList(t, 0, nil, region), ofRegion}, nitro.CheckRevocation},
		{"zone revoked", []*x509.RevocationList{ofRoot, w.RevocationList(t, 1, nil, zone)}, nitro.CheckRevocation},
		{"instance revoked", []*x509.RevocationList{ofRoot, ofRegion, w.RevocationList(t, 2, nil, instance)}, nitro.CheckRevocation},
		{"enclave revoked", []*x509.RevocationList{ofRoot, ofRegion, w.RevocationList(t, 3, nil, w.leaf.Certificate)}, nitro.CheckRevocation},
		{"one list missing", []*x509.RevocationList{ofRoot}, nitro.CheckRevocation},
		{"a stale list", []*x509.RevocationList{ofRoot, w.RevocationList(t, 1, stale)}, nitro.CheckRevocation},
		{"a stale list and a current one", []*x509.RevocationList{ofRoot, ofRegion, w.RevocationList(t, 1, stale)}, ""},
		{"a stale list that names the zone", []*x509.RevocationList{ofRoot, ofRegion, w.RevocationList(t, 1, stale, zone)}, nitro.CheckRevocation},
		{"a list from the future", []*x509.RevocationList{ofRoot, w.RevocationList(t, 1, early)}, nitro.CheckRevocation},
		{"a stale list that was not needed", []*x509.RevocationList{ofRoot, ofRegion, w.RevocationList(t, 2, stale)}, nitro.CheckRevocation},
		{"a list of another PKI with the same names", []*x509.RevocationList{ofRoot, ofRegion, other.RevocationList(t, 0, nil, region)}, ""},
		{"only lists of another PKI", []*x509.RevocationList{other.RevocationList(t, 0, nil), other.RevocationList(t, 1, nil)}, nitro.CheckRevocation},
		{"its own distribution point", []*x509.RevocationList{w.RevocationList(t, 0, distributionPoint(fullName(nitrotest.CRLPlace, ""))), ofRegion}, ""},
		{"another distribution point", []*x509.RevocationList{w.RevocationList(t, 0, distributionPoint(fullName("http://crl.example.com/2.crl", ""))), ofRegion}, nitro.CheckRevocation},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVerifier(t, nitro.Config{Roots: []*x509.Certificate{w.Root()}, Lists: c.lists})
			for range 2 { // the second time the chain may be known
				_, err := v.Verify(w.Draft(w.leaf).Seal(t), nitro.Expected{At: w.At})
				if c.want == "" && err != nil {
					t.Error(err)
				}
				if c.want != "" {
					refuses(t, err, c.want)
				}
			}
		})
	}
}

// A list that says "ours" and is not signed by ours.
func TestForgedRevocationList(t *testing.T) {
	w := newWorld(t)
	list := *w.RevocationList(t, 0, nil)
	list.Signature = append([]byte{}, list.Signature...)
	list.Signature[20] ^= 1
	v := newVerifier(t, nitro.Config{Roots: []*x509.Certificate{w.Root()}, Lists: []*x509.RevocationList{&list, w.RevocationList(t, 1, nil)}})
	_, err := v.Verify(w.Draft(w.leaf).Seal(t), nitro.Expected{At: w.At})
	refuses(t, err, nitro.CheckRevocation)
}

// Lists become stale while their chain is known.
func TestListsAreJudgedEachTime(t *testing.T) {
	w := newWorld(t)
	lists := []*x509.RevocationList{w.RevocationList(t, 0, nil), w.RevocationList(t, 1, nil)}
	v := newVerifier(t, nitro.Config{Roots: []*x509.Certificate{w.Root()}, Lists: lists})
	document := w.Draft(w.leaf).Seal(t)
	if _, err := v.Verify(document, nitro.Expected{At: w.At}); err != nil {
		t.Fatal(err)
	}
	_, err := v.Verify(document, nitro.Expected{At: w.At.Add(61 * time.Minute), MaxAge: 3 * time.Hour})
	refuses(t, err, nitro.CheckRevocation)
}

// Lists that are not complete, or that say something which is not understood, are refused before any document is.
func TestUnknownKindsOfLists(t *testing.T) {
	w := newWorld(t)
	url := nitrotest.CRLPlace
	for name, edit := range map[string]func(*x509.RevocationList){
		"only CA certificates":   distributionPoint(fullName(url, "\x82\x01\xff")),
		"only some reasons":      distributionPoint(fullName(url, "\x83\x02\x01\x02")),
		"an indirect list":       distributionPoint(fullName(url, "\x84\x01\xff")),
		"only user certificates": distributionPoint("\x30\x03\x81\x01\xff"),
		"an empty point":         distributionPoint("\x30\x00"),
		"bytes after the point":  distributionPoint(fullName(url, "") + "\x05\x00"),
		"a truncated point":      distributionPoint(fullName(url, "")[:9]),
		"a directory name":       distributionPoint("\x30\x08\xa0\x06\xa0\x04\xa4\x02\x30\x00"),
		"a delta list":           func(l *x509.RevocationList) { critical(&l.ExtraExtensions, 27, "\x02\x01\x01") },
		"an entry of another issuer": func(l *x509.RevocationList) {
			entry := x509.RevocationListEntry{SerialNumber: w.leaf.SerialNumber, RevocationTime: w.At}
			critical(&entry.ExtraExtensions, 29, "\x30\x00")
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, entry)
		},
	} {
		if _, err := nitro.NewVerifier(nitro.Config{Lists: []*x509.RevocationList{w.RevocationList(t, 0, edit)}}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func critical(to *[]pkix.Extension, id int, value string) {
	*to = append(*to, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, id}, Critical: true, Value: []byte(value)})
}

func TestParseLists(t *testing.T) {
	w := newWorld(t)
	der := w.RevocationList(t, 0, nil).Raw
	text := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	for name, c := range map[string]struct {
		text []byte
		want int
	}{
		"DER":                 {der, 1},
		"two in PEM":          {append(text, text...), 2},
		"nothing":             {nil, 0},
		"no list":             {[]byte("list"), 0},
		"a certificate":       {w.RootPEM(), 0},
		"PEM without a block": {[]byte("-----BEGIN X509 CRL-----\n"), 0},
	} {
		lists, err := nitro.ParseLists(c.text)
		if (err == nil) != (c.want > 0) || err == nil && len(lists) != c.want {
			t.Errorf("%s: %d lists, %v", name, len(lists), err)
		}
	}
}
