package nitro_test

import (
	"testing"
	"time"

	"github.com/hf/nitrite"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
)

// What is allowed, at its limits.
func TestAccepted(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name string
		edit func(*testing.T, *world, *nitrotest.Draft)
		ask  func(*nitro.Expected)
	}{
		{name: "as the hypervisor makes it"},
		{name: "an open map", edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) { d.OpenMap = true }},
		{name: "fields in another order", edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) { d.Fields[0], d.Fields[5] = d.Fields[5], d.Fields[0] }},
		{name: "no optional field", edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) {
			d.Remove("public_key")
			d.Remove("user_data")
			d.Remove("nonce")
		}},
		{name: "the largest fields", edit: func(_ *testing.T, _ *world, d *nitrotest.Draft) {
			for _, name := range []string{"public_key", "user_data", "nonce"} {
				d.Set(name, make([]byte, nitro.MaxFieldSize))
			}
		}},
		{name: "PCR31", edit: setPCR(31, nitrotest.PCR("configuration")), ask: func(e *nitro.Expected) {
			e.PCRs = map[int]nitro.PCR{31: nitro.PCR(nitrotest.PCR("configuration"))}
		}},
		{name: "debug when allowed", edit: debug, ask: func(e *nitro.Expected) { e.AllowDebug = true }},
		{name: "as old as allowed", ask: func(e *nitro.Expected) { e.At = e.At.Add(nitro.DefaultMaxAge) }},
		{name: "as far ahead as allowed", ask: func(e *nitro.Expected) { e.At = e.At.Add(-nitro.ClockSkew) }},
		{name: "the wanted nonce", ask: func(e *nitro.Expected) { e.Nonce = []byte("nonce") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			draft := w.Draft(w.leaf)
			if c.edit != nil {
				c.edit(t, w, draft)
			}
			expected := nitro.Expected{At: w.At}
			if c.ask != nil {
				c.ask(&expected)
			}
			d, err := w.verifier(t).Verify(draft.Seal(t), expected)
			if err != nil {
				t.Fatal(err)
			}
			if d.InstanceID() != nitrotest.InstanceID || !d.Timestamp.Equal(w.At) || d.Debug != (c.name == "debug when allowed") {
				t.Errorf("got %+v", d)
			}
		})
	}
}

// A test root, or any other, is trusted only by who was told to.
func TestOnlyNamedRoots(t *testing.T) {
	w := newWorld(t)
	document := w.Draft(w.leaf).Seal(t)
	_, err := newVerifier(t, nitro.Config{}).Verify(document, nitro.Expected{At: w.At})
	refuses(t, err, nitro.CheckRoot)
	roots, err := nitro.ParseRoots(append(nitrotest.New(t, w.At).RootPEM(), w.RootPEM()...))
	if err != nil || len(roots) != 2 {
		t.Fatalf("%d roots, %v", len(roots), err)
	}
	if _, err := newVerifier(t, nitro.Config{Roots: roots}).Verify(document, nitro.Expected{At: w.At}); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "root", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if roots, err := nitro.ParseRoots([]byte(text)); err == nil {
			t.Errorf("%q: %d roots", text, len(roots))
		}
	}
}

// Options that would check less than they seem to are errors, and no verdict about the document.
func TestBadExpectations(t *testing.T) {
	w := newWorld(t)
	document := w.Draft(w.leaf).Seal(t)
	for name, e := range map[string]nitro.Expected{
		"an empty nonce": {At: w.At, Nonce: []byte{}},
		"a long nonce":   {At: w.At, Nonce: make([]byte, nitro.MaxFieldSize+1)},
		"a negative age": {At: w.At, MaxAge: -time.Second},
		"PCR32":          {At: w.At, PCRs: map[int]nitro.PCR{32: {}}},
		"a negative PCR": {At: w.At, PCRs: map[int]nitro.PCR{-1: {}}},
	} {
		if d, err := w.verifier(t).Verify(document, e); err == nil || d != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Whatever the other implementation would read differently is noticed.
func TestDisagreement(t *testing.T) {
	w := newWorld(t)
	document := w.Draft(w.leaf).Seal(t)
	for want, change := range map[string]func(*nitrite.Result){
		"":                 func(*nitrite.Result) {},
		"protected header": func(r *nitrite.Result) { r.Protected = nil },
		"payload":          func(r *nitrite.Result) { r.Payload = r.Payload[1:] },
		"signature":        func(r *nitrite.Result) { r.Signature = nil },
		"module_id":        func(r *nitrite.Result) { r.Document.ModuleID = "i-0" },
		"digest":           func(r *nitrite.Result) { r.Document.Digest = "SHA512" },
		"timestamp":        func(r *nitrite.Result) { r.Document.Timestamp++ },
		"pcrs":             func(r *nitrite.Result) { delete(r.Document.PCRs, 3) },
		"certificate":      func(r *nitrite.Result) { r.Document.Certificate = nil },
		"cabundle":         func(r *nitrite.Result) { r.Document.CABundle = r.Document.CABundle[1:] },
		"public_key":       func(r *nitrite.Result) { r.Document.PublicKey = nil },
		"user_data":        func(r *nitrite.Result) { r.Document.UserData = []byte{} },
		"nonce":            func(r *nitrite.Result) { r.Document.Nonce = []byte("other") },
	} {
		got, err := nitro.CompareWith(document, w.Root(), w.At, change)
		if err != nil || got != want {
			t.Errorf("got %q and %v, want %q", got, err, want)
		}
	}
}
