package prices

import (
	"math/rand/v2"
	"testing"
)

func of(n uint64) *uint64 { return &n }

func TestCost(t *testing.T) {
	plain := &Rates{Band: Band{Input: 2_500_000, Output: 10_000_000}}
	full := &Rates{
		Band:  Band{Input: 3_000_000, Output: 15_000_000, CachedInput: of(300_000), CacheWrite: of(3_750_000), CacheWrite1h: of(6_000_000), Reasoning: of(20_000_000)},
		Batch: &Band{Input: 1_500_000, Output: 7_500_000},
		Tiers: []Tier{{Above: 200_000, Band: Band{Input: 6_000_000, Output: 22_500_000}}},
	}
	for _, c := range []struct {
		name  string
		rates *Rates
		usage Usage
		want  uint64
	}{
		{"nothing", plain, Usage{}, 0},
		{"rounded up", plain, Usage{Input: 1}, 3},
		{"rounded up once", plain, Usage{Input: 1, Output: 1}, 13},
		{"input and output", plain, Usage{Input: 1000, Output: 100}, 3500},
		{"unnamed rates are the full ones", plain, Usage{CachedInput: 1000, CacheWrite: 1000, CacheWrite1h: 1000, Reasoning: 100}, 8500},
		{"every rate", full, Usage{Input: 1000, CachedInput: 1000, CacheWrite: 1000, CacheWrite1h: 1000, Output: 100, Reasoning: 100}, 3000 + 300 + 3750 + 6000 + 1500 + 2000},
		{"batch", full, Usage{Input: 1000, Output: 100, Batch: true}, 2250},
		{"batch without rates of its own", plain, Usage{Input: 1000, Output: 100, Batch: true}, 3500},
		{"at the tier", full, Usage{Input: 200_000}, 600_000},
		{"above the tier, cached input too", full, Usage{Input: 1, CachedInput: 200_000}, 1_200_006},
		{"no end", plain, Usage{Input: 1 << 63, Output: 1 << 63}, 1<<64 - 1},
	} {
		if got := c.rates.Cost(c.usage); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestWorstIsNeverExceeded: whatever a provider makes of so many tokens, it costs no more.
func TestWorstIsNeverExceeded(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	optional := func() *uint64 {
		if rng.IntN(2) == 0 {
			return nil
		}
		return of(rng.Uint64N(100_000_000))
	}
	band := func() Band {
		return Band{Input: rng.Uint64N(50_000_000), Output: rng.Uint64N(100_000_000), CachedInput: optional(), CacheWrite: optional(), CacheWrite1h: optional(), Reasoning: optional()}
	}
	for range 20_000 {
		r := &Rates{Band: band()}
		if rng.IntN(2) == 0 {
			b := band()
			r.Batch = &b
		}
		if rng.IntN(2) == 0 {
			r.Tiers = []Tier{{1000, band()}, {100_000, band()}}
		}
		input, output := rng.Uint64N(300_000), rng.Uint64N(100_000)
		u := Usage{Batch: rng.IntN(2) == 0}
		for left, parts := input, []*uint64{&u.Input, &u.CachedInput, &u.CacheWrite, &u.CacheWrite1h}; len(parts) > 0; parts = parts[1:] {
			*parts[0] = rng.Uint64N(left + 1)
			left -= *parts[0]
		}
		u.Output = rng.Uint64N(output + 1)
		u.Reasoning = rng.Uint64N(output - u.Output + 1)
		if worst, got := r.Worst(input, output), r.Cost(u); got > worst {
			t.Fatalf("%+v costs %d, at worst %d for %d and %d tokens of %+v", u, got, worst, input, output, r)
		}
	}
}
