package evidence_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/visa"
)

// scene is a journal with a visa and a verdict under it.
type scene struct {
	log     *journaltest.Log
	claims  *visa.Claims
	verdict journal.Verdict
	visa    []byte
	bundle  *evidence.Bundle
}

func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{log: journaltest.New(t, journaltest.NewKey(t), nil)}
	s.claims = s.log.Claims("a1")
	s.claims.ID = bytes.Repeat([]byte{9}, visa.CTISize)
	s.visa = s.log.Append(s.log.Visa(s.claims)).Granted(t, 1)
	s.verdict = journal.Verdict{Time: s.log.Now.UnixNano(), AgentID: "a1", Subject: s.claims.Subject, Decision: journal.Block, Layer: "broker",
		Operation: "open-read", Target: "/root/.ssh/id_rsa", Errno: 13, Count: 1, VisaID: s.claims.ID}
	s.bundle = s.prove(t, s.verdict)
	return s
}

func (s *scene) prove(t testing.TB, v journal.Verdict) *evidence.Bundle {
	t.Helper()
	entry := s.log.Verdict(v)
	v.PID++ // equal entries would prove each other's places
	b := s.log.Append(s.log.Verdict(v), entry)
	return &evidence.Bundle{Entry: entry, Receipt: *b.Receipt(b.First + 1), KeyEvidence: *s.log.KeyEvidence(), Visa: s.visa}
}

func (s *scene) options() evidence.Options {
	return evidence.Options{Keys: []*journal.Key{s.log.Key}, AllowSoftware: true}
}

func encode(t testing.TB, b *evidence.Bundle) []byte {
	t.Helper()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestVerifySaysWhichCheckFailed(t *testing.T) {
	s, stranger := newScene(t), newScene(t)
	otherVerdict := s.verdict
	otherVerdict.VisaID = bytes.Repeat([]byte{8}, 16)
	otherAgent := s.verdict
	otherAgent.AgentID = "a2"
	for name, c := range map[string]struct {
		spoil   func(*evidence.Bundle)
		bundle  *evidence.Bundle
		options func(*evidence.Options)
		want    error
	}{
		"as exported":                {},
		"without its visa":           {spoil: func(b *evidence.Bundle) { b.Visa = nil }},
		"no key pinned":              {options: func(o *evidence.Options) { o.Keys = nil }},
		"software refused":           {options: func(o *evidence.Options) { o.AllowSoftware = false }, want: evidence.ErrTier},
		"another key pinned":         {options: func(o *evidence.Options) { o.Keys = []*journal.Key{stranger.log.Key} }, want: evidence.ErrKey},
		"another enclave's evidence": {spoil: func(b *evidence.Bundle) { b.KeyEvidence = stranger.bundle.KeyEvidence }, want: evidence.ErrKey},
		"a higher label":             {spoil: func(b *evidence.Bundle) { b.KeyEvidence.Tier = journal.TierNitro }, want: evidence.ErrTier},
		"a label of its own": {spoil: func(b *evidence.Bundle) { b.KeyEvidence.Tier = journal.TierTPM },
			options: func(o *evidence.Options) {
				o.Verifiers = map[string]evidence.KeyVerifier{journal.TierTPM: evidence.Software{}}
			}, want: evidence.ErrTier},
		"another entry":           {spoil: func(b *evidence.Bundle) { b.Entry = s.log.Verdict(otherAgent) }, want: evidence.ErrProof},
		"another index":           {spoil: func(b *evidence.Bundle) { b.Receipt.Index += 100 }, want: evidence.ErrProof},
		"a visa of another cti":   {bundle: s.prove(t, otherVerdict), want: evidence.ErrVisa},
		"a visa of another agent": {bundle: s.prove(t, otherAgent), want: evidence.ErrVisa},
		"a visa of a stranger":    {spoil: func(b *evidence.Bundle) { b.Visa = stranger.visa }, want: evidence.ErrVisa},
		"a visa that is garbage":  {spoil: func(b *evidence.Bundle) { b.Visa = []byte{1, 2} }, want: evidence.ErrVisa},
		"key evidence of no visa": {spoil: func(b *evidence.Bundle) { b.Visa, b.VisaKeyEvidence = nil, &b.KeyEvidence }, want: evidence.ErrVisa},
		"a visa of another epoch, both pinned": {spoil: func(b *evidence.Bundle) { b.Visa, b.VisaKeyEvidence = stranger.visa, stranger.log.KeyEvidence() },
			options: func(o *evidence.Options) { o.Keys = append(o.Keys, stranger.log.Key) }},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := *s.bundle
			if c.bundle != nil {
				bundle = *c.bundle
			}
			if c.spoil != nil {
				c.spoil(&bundle)
			}
			o := s.options()
			if c.options != nil {
				c.options(&o)
			}
			p, err := evidence.Verify(encode(t, &bundle), o)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err == nil && (p.Verdict.Target != s.verdict.Target || p.Pinned != (len(o.Keys) > 0) || (p.Visa == nil) != (bundle.Visa == nil)) {
				t.Fatalf("%+v", p)
			}
		})
	}
}

func TestEveryAlteredBitIsRefused(t *testing.T) {
	s := newScene(t)
	data := encode(t, s.bundle)
	inVisa := bytes.Index(data, s.visa)
	for bit := range len(data) * 8 {
		if at := bit / 8; at >= inVisa && bit%7 != 0 {
			continue // package visa flips every bit of a visa; here each seventh will do
		}
		bad := bytes.Clone(data)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := evidence.Verify(bad, s.options()); err == nil {
			t.Fatalf("bit %d of byte %d flipped: accepted", bit%8, bit/8)
		}
	}
	for n := range data {
		if _, err := evidence.Verify(data[:n], s.options()); !errors.Is(err, evidence.ErrMalformed) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	s := newScene(f)
	f.Add(encode(f, s.bundle))
	without := *s.bundle
	without.Visa = nil
	f.Add(encode(f, &without))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := evidence.Verify(data, s.options()); err == nil && (p.Verdict == nil || p.Verdict.Target != s.verdict.Target) {
			t.Errorf("evidence that nobody signed: %+v", p)
		}
		if b, err := evidence.Decode(data); err == nil {
			again, err := b.Encode()
			if err != nil || !bytes.Equal(again, data) {
				t.Errorf("accepted %x, encodes as %x: %v", data, again, err)
			}
		}
	})
}
