package evidence_test

import (
	"errors"
	"testing"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// The chain of a visa with the tier software, whose evidence needs no hardware. With a TPM and with enclaves:
// cmd/raypher.TestVisaChainTPM, TestVisaChainNitro.
func TestVerifyVisa(t *testing.T) {
	s, stranger := newScene(t), newScene(t)
	for name, c := range map[string]struct {
		visa  []byte
		ev    *journal.KeyEvidence
		visaO visa.Options
		o     func(*evidence.Options)
		want  error
	}{
		"holds":                         {want: nil},
		"without a pinned key":          {o: func(o *evidence.Options) { o.Keys = nil }},
		"only hardware":                 {visaO: visa.Options{Tiers: []string{journal.TierTPM}}, want: visa.ErrTier},
		"software is refused":           {o: func(o *evidence.Options) { o.AllowSoftware = false }, want: evidence.ErrTier},
		"leave in the wrong options":    {visaO: visa.Options{AllowSoftware: true}, o: func(o *evidence.Options) { o.AllowSoftware = false }, want: evidence.ErrTier},
		"keys in the wrong options":     {visaO: visa.Options{Keys: []*journal.Key{stranger.log.Key}}, visa: stranger.visa, want: evidence.ErrHead},
		"another enclave's visa":        {visa: stranger.visa, want: evidence.ErrHead},
		"another enclave's evidence":    {ev: stranger.log.KeyEvidence(), want: evidence.ErrKey},
		"another enclave's, not pinned": {ev: stranger.log.KeyEvidence(), o: func(o *evidence.Options) { o.Keys = nil }, want: evidence.ErrHead},
		"expired":                       {visaO: visa.Options{Now: s.claims.Expires()}, want: visa.ErrExpired},
		"no visa":                       {visa: []byte("no visa"), want: visa.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			o := s.options()
			if c.o != nil {
				c.o(&o)
			}
			if c.visa == nil {
				c.visa = s.visa
			}
			if c.ev == nil {
				c.ev = s.log.KeyEvidence()
			}
			if c.visaO.Now.IsZero() {
				c.visaO.Now = s.log.Now
			}
			p, err := evidence.VerifyVisa(c.visa, c.ev, c.visaO, o)
			if !errors.Is(err, c.want) || (err == nil) != (p != nil) || p != nil && (p.KeyTrust.Key.ID() != s.log.Key.ID() || p.Pinned != (o.Keys != nil)) {
				t.Errorf("%+v, %v, want %v", p, err, c.want)
			}
		})
	}
	if ev, err := s.bundle.VisaEvidence(s.visa); err != nil || ev != &s.bundle.KeyEvidence {
		t.Errorf("%v, %v", ev, err)
	}
	if _, err := s.bundle.VisaEvidence(stranger.visa); !errors.Is(err, evidence.ErrHead) {
		t.Errorf("a visa of another epoch: %v", err)
	}
}
