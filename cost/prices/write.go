package prices

import (
	"fmt"
	"strings"
	"time"
)

// Format writes models as a price list that Parse reads. dollars writes micro-dollars as a decimal number.
func Format(models []Model, dollars func(uint64) string) []byte {
	var b strings.Builder
	for i := range models {
		m := &models[i]
		fmt.Fprintf(&b, "- {provider: %s, model: %q, %s,\n   source: %q, date: %q}\n", m.Provider, m.Name, m.Words(dollars), m.Source, m.Date.Format(time.DateOnly))
	}
	return []byte(b.String())
}

// Words are the rates in one line, as a price list has them.
func (r *Rates) Words(dollars func(uint64) string) string {
	parts := []string{r.Band.format(dollars)}
	if r.Batch != nil {
		parts = append(parts, "batch: {"+r.Batch.format(dollars)+"}")
	}
	var tiers []string
	for i := range r.Tiers {
		tiers = append(tiers, fmt.Sprintf("{above: %d, %s}", r.Tiers[i].Above, r.Tiers[i].Band.format(dollars)))
	}
	if tiers != nil {
		parts = append(parts, "tiers: ["+strings.Join(tiers, ", ")+"]")
	}
	if r.Context > 0 {
		parts = append(parts, fmt.Sprintf("context: %d", r.Context))
	}
	if r.MaxOutput > 0 {
		parts = append(parts, fmt.Sprintf("max_output: %d", r.MaxOutput))
	}
	return strings.Join(parts, ", ")
}

func (b *Band) format(dollars func(uint64) string) string {
	parts := []string{"input: " + dollars(b.Input)}
	for _, o := range []struct {
		key  string
		rate *uint64
	}{{"cached_input", b.CachedInput}, {"cache_write", b.CacheWrite}, {"cache_write_1h", b.CacheWrite1h}} {
		if o.rate != nil {
			parts = append(parts, o.key+": "+dollars(*o.rate))
		}
	}
	parts = append(parts, "output: "+dollars(b.Output))
	if b.Reasoning != nil {
		parts = append(parts, "reasoning: "+dollars(*b.Reasoning))
	}
	return strings.Join(parts, ", ")
}
