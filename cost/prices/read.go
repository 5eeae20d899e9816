package prices

import (
	"github.com/raypher/raypher/internal/strictyaml"
)

// maxRate is a million dollars for a million tokens, in micro-dollars: so much that every product stays within 128 bits, and far more than
// any price.
const maxRate = 1_000_000 * million

// maxTokens bounds sizes of contexts.
const maxTokens = 1 << 40

const rateFix = "write dollars for a million tokens, like 2.50, with at most 6 decimals"

// Keys are those of rates, as ReadRates reads them.
var Keys = []string{"input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning"}

// ReadRates reads the rates of one model from a section of a file. parse reads dollars into micro-dollars. more are further keys of the
// section.
func ReadRates(r *strictyaml.Reader, at strictyaml.Place, n *strictyaml.Node, parse func(string) (uint64, error), more map[string]func(strictyaml.Place, *strictyaml.Node)) Rates {
	var rates Rates
	d := decoder{r, parse}
	fields := d.band(&rates.Band)
	fields["context"] = func(at strictyaml.Place, n *strictyaml.Node) { d.size(at, n, &rates.Context) }
	fields["max_output"] = func(at strictyaml.Place, n *strictyaml.Node) { d.size(at, n, &rates.MaxOutput) }
	fields["batch"] = func(at strictyaml.Place, n *strictyaml.Node) {
		rates.Batch = &Band{}
		d.complete(at, n, rates.Batch, d.band(rates.Batch))
	}
	fields["tiers"] = func(at strictyaml.Place, n *strictyaml.Node) { d.tiers(at, n, &rates.Tiers) }
	for key, read := range more {
		fields[key] = read
	}
	d.complete(at, n, &rates.Band, fields)
	return rates
}

type decoder struct {
	*strictyaml.Reader
	parse func(string) (uint64, error)
}

func (d decoder) band(b *Band) map[string]func(strictyaml.Place, *strictyaml.Node) {
	optional := func(into **uint64) func(strictyaml.Place, *strictyaml.Node) {
		return func(at strictyaml.Place, n *strictyaml.Node) {
			*into = new(uint64)
			d.rate(at, n, *into)
		}
	}
	return map[string]func(strictyaml.Place, *strictyaml.Node){
		"input":          func(at strictyaml.Place, n *strictyaml.Node) { d.rate(at, n, &b.Input) },
		"output":         func(at strictyaml.Place, n *strictyaml.Node) { d.rate(at, n, &b.Output) },
		"cached_input":   optional(&b.CachedInput),
		"cache_write":    optional(&b.CacheWrite),
		"cache_write_1h": optional(&b.CacheWrite1h),
		"reasoning":      optional(&b.Reasoning),
	}
}

// complete reads a section and holds that input and output are there: a price that was forgotten would be none.
func (d decoder) complete(at strictyaml.Place, n *strictyaml.Node, b *Band, fields map[string]func(strictyaml.Place, *strictyaml.Node)) {
	seen := map[string]bool{}
	for key, read := range fields {
		fields[key] = func(at strictyaml.Place, n *strictyaml.Node) {
			seen[key] = true
			read(at, n)
		}
	}
	d.Fields(at, n, fields)
	for _, key := range []string{"input", "output"} {
		if !seen[key] {
			d.Report(at, strictyaml.Faultf("write it, and 0 if it costs nothing", "%s is missing", key))
		}
	}
}

func (d decoder) rate(at strictyaml.Place, n *strictyaml.Node, into *uint64) {
	text, ok := d.Plain(at, n, "a price", rateFix)
	if !ok {
		return
	}
	value, err := d.parse(text)
	switch {
	case err != nil:
		d.Report(at, strictyaml.Faultf(rateFix, "price %q", strictyaml.Shorten(text)))
	case value > maxRate:
		d.Report(at, strictyaml.Faultf("use at most 1000000", "price %s", strictyaml.Shorten(text)))
	default:
		*into = value
	}
}

func (d decoder) size(at strictyaml.Place, n *strictyaml.Node, into *uint64) {
	var value *uint64
	d.Number(at, n, &value)
	if value == nil {
		return
	}
	if *value == 0 || *value > maxTokens {
		d.Report(at, strictyaml.Faultf("write a number of tokens, or leave the key out", "%d tokens", *value))
		return
	}
	*into = *value
}

func (d decoder) tiers(at strictyaml.Place, n *strictyaml.Node, into *[]Tier) {
	d.Each(at, n, func(at strictyaml.Place, n *strictyaml.Node) {
		var t Tier
		fields := d.band(&t.Band)
		fields["above"] = func(at strictyaml.Place, n *strictyaml.Node) { d.size(at, n, &t.Above) }
		before := d.Count()
		d.complete(at, n, &t.Band, fields)
		switch all := *into; {
		case d.Count() > before:
		case t.Above == 0:
			d.Report(at, strictyaml.Faultf("write above: and a number of tokens", "a tier without a size"))
		case len(all) > 0 && t.Above <= all[len(all)-1].Above:
			d.Report(at, strictyaml.Faultf("write the tiers from the smallest to the largest", "above: %d after %d", t.Above, all[len(all)-1].Above))
		}
		*into = append(*into, t)
	})
}
