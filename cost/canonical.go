package cost

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/raypher/raypher/cost/prices"
)

// ErrNotCanonical means that bytes are not what Canonical writes.
var ErrNotCanonical = errors.New("not the canonical form of a cost control")

// Canonical is the one form of a cost control that is signed and hashed: JSON without space, keys sorted, amounts with at least two
// decimals, what is not there left out. Parse reads it.
func (c *Control) Canonical() []byte {
	top := c.Host.object("monthly_budget_usd")
	top["version"], top["time_zone"], top["on_exhausted"] = c.Version, c.TimeZone, c.OnExhausted
	section(top, "per_run", c.PerRun.object("budget_usd"))
	if len(c.Namespaces) > 0 {
		top["namespaces"] = scopes(c.Namespaces)
	}
	var alerts []object
	for _, a := range c.Alerts {
		o := object{"at": strconv.FormatUint(a.At, 10) + "%", "webhook": a.Webhook}
		if a.Secret != "" {
			o["secret"] = a.Secret
		}
		if a.CA != "" {
			o["ca"] = a.CA
		}
		alerts = append(alerts, o)
	}
	if len(alerts) > 0 {
		top["alerts"] = alerts
	}
	if len(c.Providers) > 0 {
		providers := object{}
		for name, p := range c.Providers {
			providers[name] = p.object()
		}
		top["providers"] = providers
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(top); err != nil {
		panic(err) // maps of texts and numbers always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// ParseCanonical reads the canonical form and nothing else, for bytes from a peer that is not trusted.
func ParseCanonical(data []byte) (*Control, error) {
	c, err := Parse("cost control", data)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(c.Canonical(), data) {
		return nil, ErrNotCanonical
	}
	return c, nil
}

type object map[string]any

func section(into object, key string, o object) {
	if len(o) > 0 {
		into[key] = o
	}
}

func (l Limits) object(budget string) object {
	o := object{}
	if l.Budget != nil {
		o[budget] = l.Budget.String()
	}
	if l.RequestsPerMinute != nil {
		o["requests_per_minute"] = *l.RequestsPerMinute
	}
	if l.TokensPerDay != nil {
		o["tokens_per_day"] = *l.TokensPerDay
	}
	return o
}

func scopes(all map[string]Scope) object {
	out := object{}
	for name, s := range all {
		o := s.object("monthly_budget_usd")
		section(o, "per_run", s.PerRun.object("budget_usd"))
		if len(s.Agents) > 0 {
			o["agents"] = scopes(s.Agents)
		}
		out[name] = o
	}
	return out
}

func (p Provider) object() object {
	o := object{"kind": p.Kind, "base_url": p.BaseURL, "key": p.Key}
	if p.CA != "" {
		o["ca"] = p.CA
	}
	if p.Models != nil {
		models := object{}
		for name, r := range p.Models {
			models[name] = rates(r)
		}
		o["models"] = models
	}
	return o
}

func rates(r prices.Rates) object {
	o := band(r.Band)
	if r.Context > 0 {
		o["context"] = r.Context
	}
	if r.MaxOutput > 0 {
		o["max_output"] = r.MaxOutput
	}
	if r.Batch != nil {
		o["batch"] = band(*r.Batch)
	}
	var tiers []object
	for _, t := range r.Tiers {
		b := band(t.Band)
		b["above"] = t.Above
		tiers = append(tiers, b)
	}
	if tiers != nil {
		o["tiers"] = tiers
	}
	return o
}

func band(b prices.Band) object {
	o := object{"input": Amount(b.Input).String(), "output": Amount(b.Output).String()}
	for key, rate := range map[string]*uint64{"cached_input": b.CachedInput, "cache_write": b.CacheWrite, "cache_write_1h": b.CacheWrite1h, "reasoning": b.Reasoning} {
		if rate != nil {
			o[key] = Amount(*rate).String()
		}
	}
	return o
}
