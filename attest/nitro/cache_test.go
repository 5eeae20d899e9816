package nitro_test

import (
	"crypto/elliptic"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
)

func TestSecondDocumentOfAChain(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	verify := func(edit func(*nitrotest.Draft), e nitro.Expected) error {
		draft := w.Draft(w.leaf)
		if edit != nil {
			edit(draft)
		}
		_, err := v.Verify(draft.Seal(t), e)
		return err
	}
	now := nitro.Expected{At: w.At}

	refuses(t, verify(debugDraft, now), nitro.CheckDebug)
	if v.ChainCount() != 0 {
		t.Fatal("a refused document taught a chain")
	}
	for range 3 {
		if err := verify(nil, now); err != nil {
			t.Fatal(err)
		}
	}
	if v.ChainCount() != 1 {
		t.Fatalf("%d chains", v.ChainCount())
	}
	// A known chain is no reason to check anything less.
	refuses(t, verify(debugDraft, now), nitro.CheckDebug)
	refuses(t, verify(func(d *nitrotest.Draft) { d.Key = w.Leaf(t).Key }, now), nitro.CheckSignature)
	refuses(t, verify(nil, nitro.Expected{At: w.At, Nonce: []byte("other")}), nitro.CheckNonce)
	end := nitro.Expected{At: w.leaf.NotAfter.Add(time.Second), MaxAge: 24 * time.Hour}
	refuses(t, verify(nil, end), nitro.CheckValidity)
	// The same certificates in another order, or fewer, are another chain.
	refuses(t, verify(func(d *nitrotest.Draft) {
		bundle := d.Get("cabundle").([][]byte)
		bundle[1], bundle[2] = bundle[2], bundle[1]
	}, now), nitro.CheckChain)
}

// Each certificate of a known chain is asked for its validity again, not only the leaf.
func TestKnownChainOutlivesNoCertificate(t *testing.T) {
	w := newWorld(t)
	template := authority(w)
	template.NotBefore, template.NotAfter = w.At.Add(-time.Minute), w.At.Add(time.Minute) // the leaf has 90 minutes on both sides
	draft := w.Draft(w.leaf)
	w.exchange(t, draft, nitrotest.Issue(t, w.Chain[2], template, elliptic.P384()))
	document := draft.Seal(t)
	v := w.verifier(t)
	for range 2 {
		for _, at := range []time.Duration{-time.Minute, time.Minute} {
			draft.Set("timestamp", w.At.Add(at).UnixMilli())
			if _, err := v.Verify(draft.Seal(t), nitro.Expected{At: w.At.Add(at)}); err != nil {
				t.Fatal(err)
			}
			_, err := v.Verify(document, nitro.Expected{At: w.At.Add(at + at/60)})
			refuses(t, err, nitro.CheckValidity)
		}
	}
}

func debugDraft(d *nitrotest.Draft) { debug(nil, nil, d) }

func TestCacheIsBounded(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	v.LimitChains(2)
	for range 4 {
		leaf := w.Leaf(t)
		for range 2 {
			if _, err := v.Verify(w.Draft(leaf).Seal(t), nitro.Expected{At: w.At}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := v.ChainCount(); n != 2 {
		t.Errorf("%d chains, the limit is 2", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	v.LimitChains(2)
	var callers sync.WaitGroup
	for range 4 {
		document := w.Draft(w.Leaf(t)).Seal(t)
		for range 2 {
			callers.Go(func() {
				for range 5 {
					if _, err := v.Verify(document, nitro.Expected{At: w.At}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	callers.Wait()
}

// BenchmarkVerify reports what the first document of a chain costs, and the next ones.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	document := w.Draft(w.leaf).Seal(b)
	verify := func(b *testing.B, v *nitro.Verifier) {
		if _, err := v.Verify(document, nitro.Expected{At: w.At}); err != nil {
			b.Fatal(err)
		}
	}
	var first time.Duration
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			verify(b, w.verifier(b))
		}
		first = b.Elapsed() / time.Duration(b.N)
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verifications/s")
	})
	b.Run("next", func(b *testing.B) {
		v := w.verifier(b)
		verify(b, v)
		for b.Loop() {
			verify(b, v)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verifications/s")
		if first > 0 {
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(first), "of-first")
		}
	})
}
