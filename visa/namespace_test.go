package visa_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/visa"
)

// namespaced puts a head for a namespace, signed by its key, to a granted visa.
func namespaced(t testing.TB, o *office, data []byte, namespace string, signer journal.Signer) []byte {
	t.Helper()
	entry, receipt, _, err := visa.Split(data)
	if err != nil {
		t.Fatal(err)
	}
	head, err := journal.VerifyHead(receipt.SignedHead, o.log.Key)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := journal.SignNamespaceHead(journal.NamespaceHead{Head: *head, Namespace: namespace}, signer)
	if err != nil {
		t.Fatal(err)
	}
	out, err := visa.EncodeNamespaced(entry, receipt, signed)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func keyOf(t testing.TB, signer journal.Signer) *journal.Key {
	t.Helper()
	key, err := journal.NewKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Which key may sign for which namespace: the enclave's for all, a namespace's own for its own.
func TestNamespaceKeys(t *testing.T) {
	o := newOffice(t)
	dev, prod := journaltest.NewKey(t), journaltest.NewKey(t)
	ofDev, ofProd := o.claims(t), o.claims(t)
	ofProd.Namespace = "prod"
	visas := o.grant(t, ofDev, ofProd)
	for name, c := range map[string]struct {
		visa  []byte
		trust []*journal.Key
		want  error
	}{
		"the enclave's key, no other head":         {visas[0], []*journal.Key{o.log.Key}, nil},
		"the enclave's key, beside a namespace's":  {namespaced(t, o, visas[0], "dev", dev), []*journal.Key{o.log.Key}, nil},
		"the namespace's key":                      {namespaced(t, o, visas[0], "dev", dev), []*journal.Key{keyOf(t, dev)}, nil},
		"both":                                     {namespaced(t, o, visas[0], "dev", dev), []*journal.Key{keyOf(t, dev), o.log.Key}, nil},
		"a visa without the namespace's head":      {visas[0], []*journal.Key{keyOf(t, dev)}, visa.ErrKey},
		"another namespace's key":                  {namespaced(t, o, visas[0], "dev", dev), []*journal.Key{keyOf(t, prod)}, visa.ErrKey},
		"a key for another namespace than it says": {namespaced(t, o, visas[1], "dev", dev), []*journal.Key{keyOf(t, dev)}, visa.ErrKey},
		"a head of a stranger":                     {namespaced(t, o, visas[0], "dev", prod), []*journal.Key{keyOf(t, dev)}, visa.ErrKey},
	} {
		options := o.options()
		options.Keys = c.trust
		for _, verify := range []func([]byte) (*visa.Claims, error){
			func(b []byte) (*visa.Claims, error) { return visa.Verify(b, options) }, visa.NewVerifier(options).Verify,
		} {
			if _, err := verify(c.visa); !errors.Is(err, c.want) {
				t.Errorf("%s: error %v, want %v", name, err, c.want)
			}
		}
	}
}

// A Verifier that knows a namespace's head takes nothing of another namespace under it.
func TestKnownNamespaceHeads(t *testing.T) {
	o := newOffice(t)
	dev := journaltest.NewKey(t)
	ofDev, ofProd := o.claims(t), o.claims(t)
	ofProd.Namespace = "prod"
	visas := o.grant(t, ofDev, ofProd)
	options := o.options()
	options.Keys = []*journal.Key{keyOf(t, dev)}
	v := visa.NewVerifier(options)
	if _, err := v.Verify(namespaced(t, o, visas[0], "dev", dev)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(namespaced(t, o, visas[1], "dev", dev)); !errors.Is(err, visa.ErrKey) {
		t.Errorf("error %v, want ErrKey", err)
	}
}

// For whoever trusts the namespace's key, every bit counts but those that only the enclave's head has.
func TestEveryAlteredBitIsRefusedUnderANamespaceKey(t *testing.T) {
	o := newOffice(t)
	dev := journaltest.NewKey(t)
	good := namespaced(t, o, o.grant(t, o.claims(t))[0], "dev", dev)
	options := o.options()
	options.Keys = []*journal.Key{keyOf(t, dev)}
	_, receipt, _, err := visa.Split(good)
	if err != nil {
		t.Fatal(err)
	}
	enclaves := bytes.Index(good, receipt.SignedHead)
	for i := range good {
		if i >= enclaves && i < enclaves+len(receipt.SignedHead) {
			continue
		}
		for bit := range 8 {
			bent := bytes.Clone(good)
			bent[i] ^= 1 << bit
			if _, err := visa.Verify(bent, options); err == nil {
				t.Fatalf("bit %d of byte %d of %d changed, and it verifies", bit, i, len(good))
			}
		}
	}
}
