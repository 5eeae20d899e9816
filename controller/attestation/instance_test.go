package attestation_test

import (
	"testing"

	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/attest/result"
)

// The document of the parent's NitroTPM is appraised with the enclave's: its own measurements, the same nonce, the same instance.
func TestInstanceDocument(t *testing.T) {
	w := newWorld(t, t.TempDir()+"/db", nil)
	for _, c := range []struct {
		name string
		edit func(*nitrotest.Draft)
		good bool
	}{
		{"as the hypervisor makes it", func(*nitrotest.Draft) {}, true},
		{"of another instance", func(d *nitrotest.Draft) { d.Set("module_id", "i-0fedcba9876543210-tpm0000000000000000") }, false},
		{"over another nonce", func(d *nitrotest.Draft) { d.Set("nonce", []byte("0123456789abcdef")) }, false},
		{"old", func(d *nitrotest.Draft) { d.Set("timestamp", d.Get("timestamp").(uint64)-6*60*1000) }, false},
		{"of a host that booted something else", func(d *nitrotest.Draft) { d.Get("nitrotpm_pcrs").(map[int][]byte)[4] = nitrotest.PCR("other") }, false},
		{"an enclave's", func(d *nitrotest.Draft) { d.Set("module_id", nitrotest.ModuleID) }, false},
		{"with an enclave's registers too", func(d *nitrotest.Draft) { d.Set("pcrs", d.Get("nitrotpm_pcrs")) }, false},
		{"of another authority", func(d *nitrotest.Draft) {
			other := nitrotest.New(t, w.pki.At)
			leaf := other.Leaf(t)
			d.Set("cabundle", other.Draft(leaf).Get("cabundle"))
			d.Set("certificate", leaf.Raw)
			d.Key = leaf.Key
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := w.enclave(t, "rack-1")
			nonce := w.nonce(t, e)
			request := w.good(t, e, nonce)
			d := w.instance(t, nonce)
			c.edit(d)
			request.NitroTpmDocument = d.Seal(t)
			reply, err := w.Attest(e.ctx(), request)
			if !c.good {
				refusedBy(t, c.name, "instance document", err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r, err := result.Verify(reply.GetResult(), w.Keys.Public(), w.now()); err != nil || !r.Instance {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	// And it does not serve as an enclave's.
	e := w.enclave(t, "rack-1")
	nonce := w.nonce(t, e)
	request := w.good(t, e, nonce)
	request.Document = w.instance(t, nonce).Seal(t)
	_, err := w.Attest(e.ctx(), request)
	refusedBy(t, "as an enclave's", "fields", err)
}
