package visa_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/visa"
)

const audience = "https://controller.example"

// office grants visas as the enclave does.
type office struct {
	log  *journaltest.Log
	bear *ecdsa.PrivateKey
}

func newOffice(t testing.TB) *office {
	t.Helper()
	bear, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := &office{journaltest.New(t, journaltest.NewKey(t), nil), bear}
	o.log.Append()
	return o
}

func (o *office) claims(t testing.TB) *visa.Claims {
	t.Helper()
	cnf, err := visa.ConfirmationKey(&o.bear.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	c := o.log.Claims("a1")
	c.Audience, c.Nonce, c.Confirmation.Key = audience, []byte("12345678"), cnf
	return c
}

// grant commits the claims with others before and behind them, so that the proof has a path.
func (o *office) grant(t testing.TB, claims ...*visa.Claims) [][]byte {
	t.Helper()
	var entries [][]byte
	for _, c := range claims {
		entries = append(entries, o.log.Visa(c))
	}
	b := o.log.Append(entries...)
	var visas [][]byte
	for i := range entries {
		visas = append(visas, b.Granted(t, b.First+uint64(i)))
	}
	return visas
}

func (o *office) options() visa.Options {
	return visa.Options{Now: o.log.Now.Add(time.Second), Keys: []*journal.Key{o.log.Key}, Audience: audience, AllowSoftware: true}
}

func TestVerifySaysWhichCheckFailed(t *testing.T) {
	o := newOffice(t)
	other := newOffice(t)
	for _, c := range []struct {
		name   string
		claims func(*visa.Claims)
		accept func(*visa.Options)
		want   error
	}{
		{name: "as granted"},
		{name: "last second", accept: func(a *visa.Options) { a.Now = o.log.Now.Add(300*time.Second - 1) }},
		{name: "expired", accept: func(a *visa.Options) { a.Now = o.log.Now.Add(300 * time.Second) }, want: visa.ErrExpired},
		{name: "expired within skew", accept: func(a *visa.Options) { a.Now, a.Skew = o.log.Now.Add(310*time.Second), 11*time.Second }},
		{name: "expired at skew", accept: func(a *visa.Options) { a.Now, a.Skew = o.log.Now.Add(310*time.Second), 10*time.Second }, want: visa.ErrExpired},
		{name: "not yet valid", accept: func(a *visa.Options) { a.Now = o.log.Now.Add(-time.Second) }, want: visa.ErrNotYetValid},
		{name: "not yet valid within skew", accept: func(a *visa.Options) { a.Now, a.Skew = o.log.Now.Add(-time.Second), time.Second }},
		{name: "another audience", accept: func(a *visa.Options) { a.Audience = "someone" }, want: visa.ErrAudience},
		{name: "no audience asked as", accept: func(a *visa.Options) { a.Audience = "" }, want: visa.ErrAudience},
		{name: "for everyone", claims: func(c *visa.Claims) { c.Audience = "" }},
		{name: "for everyone, audience needed", claims: func(c *visa.Claims) { c.Audience = "" }, accept: func(a *visa.Options) { a.NeedAudience = true }, want: visa.ErrAudience},
		{name: "software refused", accept: func(a *visa.Options) { a.AllowSoftware = false }, want: visa.ErrTier},
		{name: "only nitro", accept: func(a *visa.Options) { a.Tiers = []string{journal.TierNitro} }, want: visa.ErrTier},
		{name: "claims of a higher tier", claims: func(c *visa.Claims) { c.Tier = journal.TierNitro }, want: visa.ErrProof},
		{name: "claims of another epoch", claims: func(c *visa.Claims) { c.Epoch = make([]byte, 16) }, want: visa.ErrProof},
		{name: "claims of another configuration", claims: func(c *visa.Claims) { c.ConfigurationHash = make([]byte, 32) }, want: visa.ErrProof},
		{name: "no key", accept: func(a *visa.Options) { a.Keys = nil }, want: visa.ErrKey},
		{name: "another enclave", accept: func(a *visa.Options) { a.Keys = []*journal.Key{other.log.Key} }, want: visa.ErrKey},
		{name: "two keys", accept: func(a *visa.Options) { a.Keys = []*journal.Key{other.log.Key, o.log.Key} }},
		{name: "the nonce", accept: func(a *visa.Options) { a.Nonce = []byte("12345678") }},
		{name: "another nonce", accept: func(a *visa.Options) { a.Nonce = []byte("12345679") }, want: visa.ErrNonce},
		{name: "no nonce", claims: func(c *visa.Claims) { c.Nonce = nil }, accept: func(a *visa.Options) { a.Nonce = []byte("12345678") }, want: visa.ErrNonce},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := o.claims(t)
			if c.claims != nil {
				c.claims(claims)
			}
			accept := o.options()
			if c.accept != nil {
				c.accept(&accept)
			}
			data := o.grant(t, o.claims(t), claims, o.claims(t))[1]
			for range 2 { // the second time with a known head
				got, err := visa.NewVerifier(accept).Verify(data)
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
					t.Fatalf("got %v, want %v", err, c.want)
				}
				if (got == nil) != (err != nil) {
					t.Fatalf("claims %v with error %v", got, err)
				}
			}
		})
	}
	if _, err := visa.Verify(o.grant(t, o.claims(t))[0], visa.Options{Keys: []*journal.Key{o.log.Key}, Skew: time.Hour}); err == nil {
		t.Error("a skew of an hour is taken")
	}
}

// TestEveryAlteredBitIsRefused: integrity does not depend on which byte an attacker picks.
func TestEveryAlteredBitIsRefused(t *testing.T) {
	o := newOffice(t)
	visas := o.grant(t, o.claims(t), o.claims(t), o.claims(t))
	fresh, known := o.options(), visa.NewVerifier(o.options())
	if _, err := known.Verify(visas[0]); err != nil {
		t.Fatal(err)
	}
	for bit := range len(visas[1]) * 8 {
		bad := bytes.Clone(visas[1])
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := visa.Verify(bad, fresh); err == nil {
			t.Fatalf("bit %d of byte %d flipped: accepted", bit%8, bit/8)
		}
		if _, err := known.Verify(bad); err == nil {
			t.Fatalf("bit %d of byte %d flipped: accepted with a known head", bit%8, bit/8)
		}
	}
	for n := range visas[1] {
		if _, err := visa.Verify(visas[1][:n], fresh); !errors.Is(err, visa.ErrMalformed) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := visa.Verify(append(bytes.Clone(visas[1]), 0), fresh); !errors.Is(err, visa.ErrMalformed) {
		t.Error("with a byte behind it: accepted")
	}
}

func TestProofsCannotBeSwapped(t *testing.T) {
	o, stranger := newOffice(t), newOffice(t)
	wide := o.claims(t)
	narrow := o.claims(t)
	visas := o.grant(t, narrow, o.claims(t))
	wide.ExpiresAt += 1 << 20
	forged := o.log.Visa(wide) // never appended
	_, receipt, _, err := visa.Split(visas[0])
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, _, err := visa.Split(stranger.grant(t, stranger.claims(t), stranger.claims(t))[0])
	if err != nil {
		t.Fatal(err)
	}
	granted, _, _, _ := visa.Split(visas[0])
	second, _, _, _ := visa.Split(visas[1])
	verdict := o.log.Verdict(journal.Verdict{AgentID: "a1", Operation: "open", Decision: journal.Block, Layer: "broker"})
	batch := o.log.Append(verdict)
	for name, c := range map[string]struct {
		entry   []byte
		receipt *journal.Receipt
		want    error
	}{
		"altered claims under a true receipt": {forged, receipt, visa.ErrProof},
		"another visa's receipt":              {second, receipt, visa.ErrProof},
		"another enclave's receipt":           {granted, foreign, visa.ErrKey},
		"an entry of another type":            {verdict, batch.Receipt(batch.First), visa.ErrMalformed},
	} {
		data, err := visa.Encode(c.entry, c.receipt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := visa.Verify(data, o.options()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestAMalleableSignatureStaysOneVisa: r, n-s is as valid as r, s, so the bytes differ and the cti does not.
func TestAMalleableSignatureStaysOneVisa(t *testing.T) {
	o := newOffice(t)
	data := o.grant(t, o.claims(t))[0]
	entry, receipt, claims, err := visa.Split(data)
	if err != nil {
		t.Fatal(err)
	}
	s := receipt.SignedHead[len(receipt.SignedHead)-32:]
	flipped := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(s))
	flipped.FillBytes(s)
	twin, err := visa.Encode(entry, receipt)
	if err != nil {
		t.Fatal(err)
	}
	got, err := visa.Verify(twin, o.options())
	if err != nil || bytes.Equal(twin, data) || !bytes.Equal(got.ID, claims.ID) {
		t.Fatalf("%v", err)
	}
}

func TestClaimsOutOfBoundsAreNotGranted(t *testing.T) {
	o := newOffice(t)
	for name, spoil := range map[string]func(*visa.Claims){
		"no subject":             func(c *visa.Claims) { c.Subject = "" },
		"subject is no SPIFFE":   func(c *visa.Claims) { c.Subject = "coder" },
		"long audience":          func(c *visa.Claims) { c.Audience = strings.Repeat("a", visa.MaxText+1) },
		"short cti":              func(c *visa.Claims) { c.ID = c.ID[:15] },
		"short nonce":            func(c *visa.Claims) { c.Nonce = c.Nonce[:7] },
		"long nonce":             func(c *visa.Claims) { c.Nonce = make([]byte, 65) },
		"no permit":              func(c *visa.Claims) { c.PermitHash = nil },
		"ends before it begins":  func(c *visa.Claims) { c.ExpiresAt = c.NotBefore },
		"year 10000":             func(c *visa.Claims) { c.ExpiresAt = 253402300800 },
		"cnf with another curve": func(c *visa.Claims) { c.Confirmation.Key = bytes.Clone(c.Confirmation.Key); c.Confirmation.Key[4] = 2 },
		"no cnf":                 func(c *visa.Claims) { c.Confirmation.Key = nil },
		"half a program hash":    func(c *visa.Claims) { c.Asserted.BinarySHA256 = make([]byte, 16) },
	} {
		c := o.claims(t)
		spoil(c)
		if _, err := c.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestPossession(t *testing.T) {
	o := newOffice(t)
	claims, err := visa.Verify(o.grant(t, o.claims(t))[0], o.options())
	if err != nil {
		t.Fatal(err)
	}
	challenge, err := visa.NewChallenge()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := visa.ProvePossession(o.bear, audience, challenge)
	if err != nil {
		t.Fatal(err)
	}
	if err := visa.VerifyPossession(claims, audience, challenge, answer); err != nil {
		t.Error(err)
	}
	thief, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	stolen, _ := visa.ProvePossession(thief, audience, challenge)
	another, _ := visa.NewChallenge()
	for name, err := range map[string]error{
		"another key":       visa.VerifyPossession(claims, audience, challenge, stolen),
		"another audience":  visa.VerifyPossession(claims, "https://other.example", challenge, answer),
		"another challenge": visa.VerifyPossession(claims, audience, another, answer),
		"no answer":         visa.VerifyPossession(claims, audience, challenge, nil),
		"zeros":             visa.VerifyPossession(claims, audience, challenge, make([]byte, 64)),
	} {
		if !errors.Is(err, visa.ErrPossession) {
			t.Errorf("%s: %v", name, err)
		}
	}
	offCurve := bytes.Clone(claims.Confirmation.Key)
	offCurve[len(offCurve)-1] ^= 1
	if _, err := visa.ParseConfirmationKey(offCurve); err == nil {
		t.Error("a point off the curve is taken")
	}
}

// TestTheVerifierForgetsOldHeads: what it remembers is bounded, and forgetting changes no answer.
func TestTheVerifierForgetsOldHeads(t *testing.T) {
	o := newOffice(t)
	v := visa.NewVerifier(o.options())
	var all [][]byte
	for range 1100 {
		all = append(all, o.grant(t, o.claims(t))[0])
	}
	for range 2 {
		for i, data := range all {
			if _, err := v.Verify(data); err != nil {
				t.Fatalf("visa %d: %v", i, err)
			}
		}
	}
}

func FuzzVerify(f *testing.F) {
	o := newOffice(f)
	visas := o.grant(f, o.claims(f), o.claims(f))
	valid := map[string]bool{}
	for _, data := range visas {
		f.Add(data)
		_, _, c, _ := visa.Split(data)
		valid[string(c.ID)] = true
	}
	f.Add(namespaced(f, o, visas[0], "dev", journaltest.NewKey(f)))
	payload, _ := o.claims(f).Encode()
	f.Add(payload)
	v := visa.NewVerifier(o.options())
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := v.Verify(data); err == nil && !valid[string(c.ID)] {
			t.Errorf("a visa that nobody granted: %+v", c)
		}
		if c, err := visa.DecodeClaims(data); err == nil {
			if _, err := c.Encode(); err != nil {
				t.Errorf("claims that cannot be encoded were read: %v", err)
			}
		}
		visa.ParseConfirmationKey(data)
	})
}

// BenchmarkVerify: with the tree head known (the target is 50,000 a second and core), and from nothing.
func BenchmarkVerify(b *testing.B) {
	o := newOffice(b)
	for range 1000 { // a tree of some depth
		o.log.Append(o.log.Visa(o.claims(b)))
	}
	var many []*visa.Claims
	for range 64 {
		many = append(many, o.claims(b))
	}
	visas := o.grant(b, many...)
	b.Logf("a visa has %d bytes", len(visas[0]))
	b.Run("head known", func(b *testing.B) {
		v := visa.NewVerifier(o.options())
		b.ReportAllocs()
		for i := range b.N {
			if _, err := v.Verify(visas[i%len(visas)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			if _, err := visa.Verify(visas[i%len(visas)], o.options()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
