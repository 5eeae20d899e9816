package prices

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxLiteLLM bounds a price list in LiteLLM's format, in bytes.
const MaxLiteLLM = 32 << 20

// Skipped is a model that was not taken over, and why.
type Skipped struct{ Name, Reason string }

// providersOf LiteLLM that are kinds of this project, with what stands before their names.
var providersOf = map[string]struct{ kind, prefix string }{
	"openai": {"openai", ""}, "anthropic": {"anthropic", ""}, "gemini": {"gemini", "gemini/"},
}

// FromLiteLLM reads model_prices_and_context_window.json of LiteLLM: dollars for one token, by name of model. It takes over the models that
// agents talk to of the kinds openai, anthropic and gemini; of others it says nothing. A model of which a rate is missing that can apply, or that costs what
// this project does not know, is skipped with the reason. Rates are rounded up to a whole micro-dollar for a million tokens. source and date are those of the
// file, where an entry has no source of its own.
func FromLiteLLM(data []byte, source string, date time.Time) (models []Model, skipped []Skipped, err error) {
	if len(data) > MaxLiteLLM {
		return nil, nil, fmt.Errorf("price list of LiteLLM: %d bytes, at most %d", len(data), MaxLiteLLM)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, nil, fmt.Errorf("price list of LiteLLM: %w: name a model_prices_and_context_window.json", err)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var e litellm
		if name == "sample_spec" || json.Unmarshal(all[name], &e.fields) != nil {
			continue // what is no model
		}
		of, known := providersOf[e.text("litellm_provider")]
		if mode := e.text("mode"); !known || mode != "chat" && mode != "responses" {
			continue
		}
		m := Model{Provider: of.kind, Name: strings.TrimPrefix(name, of.prefix), Source: source, Date: date}
		if own, err := url.Parse(e.text("source")); err == nil && own.Scheme == "https" {
			m.Source = own.String()
		}
		if strings.Contains(m.Name, "/") {
			continue // the same model under the name of a region, a tier or another host
		}
		if m.Rates, err = e.rates(); err != nil {
			skipped = append(skipped, Skipped{m.Provider + " " + m.Name, err.Error()})
			continue
		}
		models = append(models, m)
	}
	slices.SortFunc(models, func(a, b Model) int { return strings.Compare(a.Provider+" "+a.Name, b.Provider+" "+b.Name) })
	return models, skipped, nil
}

// litellm is one entry.
type litellm struct{ fields map[string]json.RawMessage }

func (e *litellm) text(key string) (s string) {
	_ = json.Unmarshal(e.fields[key], &s) // what is no text is none
	return s
}

func (e *litellm) size(key string) uint64 {
	var n json.Number
	if json.Unmarshal(e.fields[key], &n) != nil {
		return 0
	}
	size, err := strconv.ParseUint(n.String(), 10, 40)
	if err != nil {
		return 0
	}
	return size
}

var (
	errNoRate = errors.New("it has no price of input or output")
	// tierKey ends the names of rates above a size of input.
	tierKey = regexp.MustCompile(`^(.*)_above_([0-9]+)k_tokens$`)
)

// rate is one in micro-dollars for a million tokens; nil: there is none.
func (e *litellm) rate(key string) (*uint64, error) {
	raw, there := e.fields[key]
	if !there || string(raw) == "null" {
		return nil, nil
	}
	var text json.Number
	if err := json.Unmarshal(raw, &text); err != nil || len(text) > 32 {
		return nil, fmt.Errorf("%s is no number", key)
	}
	r, ok := new(big.Rat).SetString(text.String())
	if !ok || r.Sign() < 0 {
		return nil, fmt.Errorf("%s: %s", key, text)
	}
	r.Mul(r, big.NewRat(million*million, 1))
	whole, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	if !whole.IsUint64() || whole.Uint64() > maxRate {
		return nil, fmt.Errorf("%s: %s is more than any price", key, text)
	}
	n := whole.Uint64()
	return &n, nil
}

// Names of rates in LiteLLM's format, and where they go.
func (b *Band) litellm() map[string]func(uint64) {
	optional := func(into **uint64) func(uint64) { return func(n uint64) { *into = &n } }
	return map[string]func(uint64){
		"input_cost_per_token": func(n uint64) { b.Input = n }, "output_cost_per_token": func(n uint64) { b.Output = n },
		"cache_read_input_token_cost": optional(&b.CachedInput), "cache_creation_input_token_cost": optional(&b.CacheWrite),
		"cache_creation_input_token_cost_above_1hr": optional(&b.CacheWrite1h), "output_cost_per_reasoning_token": optional(&b.Reasoning),
	}
}

// band reads the rates whose names end with suffix into b, and says which there are.
func (e *litellm) band(b *Band, suffix string) (seen map[string]bool, err error) {
	seen = map[string]bool{}
	for key, set := range b.litellm() {
		n, err := e.rate(key + suffix)
		if err != nil {
			return nil, err
		}
		if n != nil {
			set(*n)
			seen[key] = true
		}
	}
	return seen, nil
}

func (e *litellm) rates() (r Rates, err error) {
	seen, err := e.band(&r.Band, "")
	if err != nil {
		return Rates{}, err
	}
	if !seen["input_cost_per_token"] || !seen["output_cost_per_token"] {
		return Rates{}, errNoRate
	}
	if err := e.dearer(&r.Band); err != nil {
		return Rates{}, err
	}
	batch := Band{}
	if seen, err = e.band(&batch, "_batches"); err != nil {
		return Rates{}, err
	}
	if seen["input_cost_per_token"] && seen["output_cost_per_token"] {
		r.Batch = &batch
	}
	for _, above := range e.sizes() {
		t := Tier{Above: above * 1000, Band: Band{Input: r.Input, Output: r.Output}}
		if _, err := e.band(&t.Band, fmt.Sprintf("_above_%dk_tokens", above)); err != nil {
			return Rates{}, err
		}
		r.Tiers = append(r.Tiers, t)
	}
	r.MaxOutput = e.size("max_output_tokens")
	if in := e.size("max_input_tokens"); in > 0 && r.MaxOutput > 0 {
		r.Context = in + r.MaxOutput // some entries name the whole as input: then it is too much, never too little
	}
	return r, nil
}

// dearer finds tokens that cost more than those of text and that agents can send: the most that a call can cost would not be known.
func (e *litellm) dearer(b *Band) error {
	for key, limit := range map[string]uint64{
		"input_cost_per_audio_token": b.Input, "input_cost_per_image_token": b.Input, "input_cost_per_video_token": b.Input, "output_cost_per_audio_token": b.Output, "output_cost_per_image_token": b.Output,
	} {
		n, err := e.rate(key)
		if err != nil {
			return err
		}
		if n != nil && *n > limit {
			return fmt.Errorf("%s is more than that of text: write the dearer one into cost_control.yaml", key)
		}
	}
	return nil
}

// sizes are those of tiers, in thousands of tokens, ascending.
func (e *litellm) sizes() (all []uint64) {
	known := (&Band{}).litellm()
	for key := range e.fields {
		m := tierKey.FindStringSubmatch(key)
		if m == nil || known[m[1]] == nil {
			continue
		}
		if n, err := strconv.ParseUint(m[2], 10, 30); err == nil && n > 0 && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}
