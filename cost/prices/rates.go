// Package prices is what models of providers cost: the price list that ships with the project, and the reckoning of what a call costs
// at most and what it did cost. Rates are whole micro-dollars for a million tokens; every product is rounded up.
package prices

import (
	"math/bits"
	"slices"
)

// Rates of one model, in micro-dollars for a million tokens. A rate that a provider does not name is the one that is charged instead:
// of cached input and cache writes that of input, of reasoning that of output.
type Rates struct {
	Band
	Batch *Band  // where calls in batches cost something else
	Tiers []Tier // by the size of the whole input, smallest first
	// Context is the most input and output tokens together; MaxOutput the most output tokens; 0: not known.
	Context, MaxOutput uint64
}

// Band is one set of rates. Input and Output are always there; the others are nil where they are not named.
type Band struct {
	Input, Output uint64
	CachedInput   *uint64
	CacheWrite    *uint64 // for the shortest life
	CacheWrite1h  *uint64 // for an hour
	Reasoning     *uint64
}

// Tier is what holds for a call whose input, cached or not, is above so many tokens.
type Tier struct {
	Above uint64
	Band
}

// Usage is what a call used, in tokens. Each token is in one of them only.
type Usage struct {
	Input, CachedInput, CacheWrite, CacheWrite1h uint64
	Output, Reasoning                            uint64
	Batch                                        bool
}

// Tokens is the sum.
func (u Usage) Tokens() uint64 {
	return saturate(u.input(), saturate(u.Output, u.Reasoning))
}

func (u Usage) input() uint64 {
	return saturate(saturate(u.Input, u.CachedInput), saturate(u.CacheWrite, u.CacheWrite1h))
}

// Cost is what the usage costs, in micro-dollars, rounded up. At the end of an integer it stays there.
func (r *Rates) Cost(u Usage) uint64 {
	b := r.band(u.input(), u.Batch)
	var high, low uint64
	for _, part := range [...]struct{ tokens, rate uint64 }{
		{u.Input, b.Input}, {u.CachedInput, or(b.CachedInput, b.Input)}, {u.CacheWrite, or(b.CacheWrite, b.Input)},
		{u.CacheWrite1h, or(b.CacheWrite1h, or(b.CacheWrite, b.Input))}, {u.Output, b.Output}, {u.Reasoning, or(b.Reasoning, b.Output)},
	} {
		h, l := bits.Mul64(part.tokens, part.rate)
		var carry uint64
		low, carry = bits.Add64(low, l, 0)
		high = saturate(high, saturate(h, carry))
	}
	return perMillion(high, low)
}

// Worst is what a call of at most so many tokens can cost at most, whatever the provider makes of them: the highest of all rates that
// can apply. It never is less than Cost of a usage within these numbers, in a batch or not.
func (r *Rates) Worst(input, output uint64) uint64 {
	var in, out uint64
	for _, b := range r.bands(input) {
		in = max(in, b.Input, or(b.CachedInput, 0), or(b.CacheWrite, 0), or(b.CacheWrite1h, 0))
		out = max(out, b.Output, or(b.Reasoning, 0))
	}
	h1, l1 := bits.Mul64(input, in)
	h2, l2 := bits.Mul64(output, out)
	low, carry := bits.Add64(l1, l2, 0)
	return perMillion(saturate(saturate(h1, h2), carry), low)
}

// LongCache says whether writes to a cache that is kept for long have a rate, or cost nothing of their own, as where no writes have a rate.
func (r *Rates) LongCache() bool {
	lacks := func(b *Band) bool { return b.CacheWrite1h == nil && b.CacheWrite != nil }
	return !lacks(&r.Band) && !slices.ContainsFunc(r.Tiers, func(t Tier) bool { return lacks(&t.Band) })
}

// WithCacheWrite is r where what is written to a cache and has no rate costs a quarter more than input, and for an hour twice as much: what
// Anthropic's page says of all its models.
func (r *Rates) WithCacheWrite() *Rates {
	filled := *r
	filled.fill()
	filled.Tiers = slices.Clone(r.Tiers)
	for i := range filled.Tiers {
		filled.Tiers[i].fill()
	}
	return &filled
}

func (b *Band) fill() {
	if b.CacheWrite == nil {
		short := saturate(b.Input, b.Input/4+min(b.Input%4, 1))
		b.CacheWrite = &short
	}
	if b.CacheWrite1h == nil {
		long := max(saturate(b.Input, b.Input), *b.CacheWrite)
		b.CacheWrite1h = &long
	}
}

// band is the one of a call.
func (r *Rates) band(input uint64, batch bool) *Band {
	b := &r.Band
	if batch && r.Batch != nil {
		b = r.Batch
	}
	for i := range r.Tiers {
		if input > r.Tiers[i].Above {
			b = &r.Tiers[i].Band
		}
	}
	return b
}

// bands are all that a call with at most so much input can be charged by.
func (r *Rates) bands(input uint64) []*Band {
	all := []*Band{&r.Band}
	if r.Batch != nil {
		all = append(all, r.Batch)
	}
	for i := range r.Tiers {
		if input > r.Tiers[i].Above {
			all = append(all, &r.Tiers[i].Band)
		}
	}
	return all
}

func or(rate *uint64, otherwise uint64) uint64 {
	if rate == nil {
		return otherwise
	}
	return *rate
}

const million = 1_000_000

// perMillion divides by a million and rounds up.
func perMillion(high, low uint64) uint64 {
	if high >= million {
		return 1<<64 - 1
	}
	quotient, rest := bits.Div64(high, low, million)
	if rest > 0 {
		quotient = saturate(quotient, 1)
	}
	return quotient
}

func saturate(a, b uint64) uint64 {
	if a+b < a {
		return 1<<64 - 1
	}
	return a + b
}
