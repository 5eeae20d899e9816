package cost

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones, where the machine has none: an enclave

	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/internal/strictyaml"
)

// Bounds of a file.
const (
	MaxSize   = 256 << 10 // bytes, of the file and of its canonical form
	maxNames  = 1024      // namespaces, agents of one, providers, models of one, each
	maxAlerts = 64
	maxName   = 128  // bytes of a name
	maxURL    = 1024 // bytes
	maxCA     = 16 << 10
	maxRate   = 1 << 40
)

// The words of package strictyaml that this package speaks in.
type (
	// Errors are all the mistakes of one file, in the order of the file.
	Errors = strictyaml.Errors

	place = strictyaml.Place
	node  = strictyaml.Node
)

const emptyFix = "write at least version, time_zone and monthly_budget_usd"

// Parse reads a cost_control.yaml, from YAML or from JSON. name is the file's name for messages. It is strict: unknown keys, keys that stand
// twice, values of the wrong kind and limits above those around them are errors. The error is of type Errors and has all mistakes at
// once; after a mistake of YAML itself only that one is known.
func Parse(name string, data []byte) (*Control, error) {
	r, document, err := strictyaml.Load(strictyaml.File{Name: name, What: "cost control", Empty: emptyFix, Limit: MaxSize}, data)
	if err != nil {
		return nil, err
	}
	c := &Control{OnExhausted: Refuse}
	d := decoder{r, map[string]place{}}
	d.control(document, c)
	d.inclusion(c)
	if err := r.Err(); err != nil {
		return nil, err
	}
	canonical := c.Canonical()
	if len(canonical) > MaxSize {
		return nil, Errors{{File: name, Message: fmt.Sprintf("canonical form of %d bytes, at most %d", len(canonical), MaxSize), Fix: "name fewer agents and models"}}
	}
	c.hash = sha256.Sum256(canonical)
	return c, nil
}

// decoder turns YAML nodes into a Control, and remembers where each limit stands.
type decoder struct {
	*strictyaml.Reader
	seen map[string]place
}

func (d decoder) control(n *node, c *Control) {
	var version *uint64
	fields := d.limits(&c.Host, "monthly_budget_usd")
	fields["version"] = func(at place, n *node) { d.Number(at, n, &version) }
	fields["time_zone"] = func(at place, n *node) { d.zone(at, n, c) }
	fields["on_exhausted"] = func(at place, n *node) {
		d.word(at, n, (*string)(&c.OnExhausted), string(Refuse), string(Pause))
	}
	fields["per_run"] = func(at place, n *node) { d.Fields(at, n, d.limits(&c.PerRun, "budget_usd")) }
	fields["namespaces"] = func(at place, n *node) { d.namespaces(at, n, c) }
	fields["alerts"] = func(at place, n *node) { d.alerts(at, n, &c.Alerts) }
	fields["providers"] = func(at place, n *node) { d.providers(at, n, c) }
	missing := map[string]string{
		"version": "write version: 1, and a larger number at each change", "time_zone": "write a name like UTC or Europe/Berlin",
		"monthly_budget_usd": "write what this host may spend in a month",
	}
	for key, read := range fields {
		fields[key] = func(at place, n *node) {
			delete(missing, key)
			read(at, n)
		}
	}
	d.Fields("", n, fields)
	for _, key := range slices.Sorted(maps.Keys(missing)) {
		d.Report(place(key), strictyaml.Faultf(missing[key], "it is missing"))
	}
	if version != nil {
		if c.Version = *version; c.Version == 0 {
			d.Report("version", strictyaml.Faultf("use a number from 1", "version 0"))
		}
	}
}

// limits are the keys of caps; budget is the key of the budget.
func (d decoder) limits(l *Limits, budget string) map[string]func(place, *node) {
	rate := func(into **uint64) func(place, *node) {
		return func(at place, n *node) {
			d.Number(at, n, into)
			if v := *into; v != nil && *v > maxRate {
				d.Report(at, strictyaml.Faultf(fmt.Sprintf("use at most %d", uint64(maxRate)), "%d", *v))
			}
		}
	}
	return map[string]func(place, *node){
		budget:                func(at place, n *node) { d.amount(at, n, &l.Budget) },
		"requests_per_minute": rate(&l.RequestsPerMinute),
		"tokens_per_day":      rate(&l.TokensPerDay),
	}
}

func (d decoder) amount(at place, n *node, into **Amount) {
	text, ok := d.Plain(at, n, "an amount", ErrAmount.Error())
	if !ok {
		return
	}
	value, err := ParseAmount(text)
	if err != nil {
		d.Report(at, strictyaml.Faultf(err.Error(), "amount %q", strictyaml.Shorten(text)))
		return
	}
	*into = &value
}

func (d decoder) zone(at place, n *node, c *Control) {
	var name string
	if !d.Text(at, n, &name) {
		return
	}
	location, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		d.Report(at, strictyaml.Faultf("write a name of the IANA list, like UTC or Europe/Berlin", "unknown time zone %q", strictyaml.Shorten(name)))
		return
	}
	c.TimeZone, c.location = name, location
}

func (d decoder) word(at place, n *node, into *string, words ...string) {
	var text string
	if !d.Text(at, n, &text) {
		return
	}
	if !slices.Contains(words, text) {
		fix := "use " + strings.Join(words, ", ")
		if near := strictyaml.Nearest(text, words); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
		}
		d.Report(at, strictyaml.Faultf(fix, "%q", strictyaml.Shorten(text)))
		return
	}
	*into = text
}

func (d decoder) namespaces(at place, n *node, c *Control) {
	c.Namespaces = map[string]Scope{}
	d.names(at, n, true, func(name string, at place, n *node) {
		var s Scope
		fields := d.limits(&s.Limits, "monthly_budget_usd")
		fields["per_run"] = func(at place, n *node) { d.Fields(at, n, d.limits(&s.PerRun, "budget_usd")) }
		fields["agents"] = func(at place, n *node) {
			s.Agents = map[string]Scope{}
			d.names(at, n, true, func(name string, at place, n *node) { s.Agents[name] = d.agent(at, n) })
		}
		d.Fields(at, n, fields)
		c.Namespaces[name] = s
	})
}

func (d decoder) agent(at place, n *node) Scope {
	var s Scope
	fields := d.limits(&s.Limits, "monthly_budget_usd")
	fields["per_run"] = func(at place, n *node) { d.Fields(at, n, d.limits(&s.PerRun, "budget_usd")) }
	d.Fields(at, n, fields)
	return s
}

// names reads a mapping whose keys are names; everyone: * is one.
func (d decoder) names(at place, n *node, everyone bool, each func(name string, at place, n *node)) {
	count := 0
	d.Mapping(at, n, func(name string, at place, n *node) {
		if count++; count > maxNames {
			if count == maxNames+1 {
				d.Report(at.Key(), strictyaml.Faultf("name fewer", "more than %d names", maxNames))
			}
			return
		}
		if !(everyone && name == Everyone) && !isName(name) {
			d.Report(at.Key(), strictyaml.Faultf(fmt.Sprintf("use 1 to %d of a-z A-Z 0-9 . - _ : /", maxName), "name %q", strictyaml.Shorten(name)))
			return
		}
		each(name, at, n)
	})
}

// isName says whether a text may name a namespace, an agent, a provider, a model or a key.
func isName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > maxName {
		return false
	}
	return strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(".-_:/", c)
	}) < 0
}

func (d decoder) alerts(at place, n *node, into *[]Alert) {
	d.Each(at, n, func(at place, n *node) {
		var a Alert
		d.Fields(at, n, map[string]func(place, *node){
			"at":      func(at place, n *node) { d.percent(at, n, &a.At) },
			"webhook": func(at place, n *node) { d.url(at, n, &a.Webhook) },
			"secret":  func(at place, n *node) { d.name(at, n, &a.Secret) },
			"ca":      func(at place, n *node) { d.authorities(at, n, &a.CA) },
		})
		if d.Count() == 0 && (a.At == 0 || a.Webhook == "") {
			d.Report(at, strictyaml.Faultf("write at: 80% and webhook: https://...", "at or webhook is missing"))
		}
		if *into = append(*into, a); len(*into) == maxAlerts+1 {
			d.Report(at, strictyaml.Faultf("write fewer", "more than %d alerts", maxAlerts))
		}
	})
}

func (d decoder) percent(at place, n *node, into *uint64) {
	text, ok := d.Plain(at, n, "a share", "write a share like 80%")
	if !ok {
		return
	}
	var value uint64
	digits, sign := strings.CutSuffix(text, "%")
	if _, err := fmt.Sscanf(digits, "%d", &value); err != nil || !sign || fmt.Sprint(value) != digits || value < 1 || value > 100 {
		d.Report(at, strictyaml.Faultf("write a share from 1% to 100%", "%q", strictyaml.Shorten(text)))
		return
	}
	*into = value
}

func (d decoder) name(at place, n *node, into *string) {
	var text string
	if d.Text(at, n, &text) && !isName(text) {
		d.Report(at, strictyaml.Faultf(fmt.Sprintf("use 1 to %d of a-z A-Z 0-9 . - _ : /", maxName), "name %q", strictyaml.Shorten(text)))
		return
	}
	*into = text
}

// url reads an https URL: a key or a signed message must not be read on its way.
func (d decoder) url(at place, n *node, into *string) {
	var text string
	if !d.Text(at, n, &text) {
		return
	}
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		d.Report(at, strictyaml.Faultf("write https://host/path, without a user or a fragment", "%q", strictyaml.Shorten(text)))
		return
	}
	*into = text
}

func (d decoder) providers(at place, n *node, c *Control) {
	c.Providers = map[string]Provider{}
	d.names(at, n, false, func(name string, at place, n *node) {
		var p Provider
		d.Fields(at, n, map[string]func(place, *node){
			"kind": func(at place, n *node) {
				d.word(at, n, (*string)(&p.Kind), string(OpenAI), string(Anthropic), string(Gemini), string(Compatible))
			},
			"base_url": func(at place, n *node) { d.url(at, n, &p.BaseURL) },
			"key":      func(at place, n *node) { d.name(at, n, &p.Key) },
			"ca":       func(at place, n *node) { d.authorities(at, n, &p.CA) },
			"models": func(at place, n *node) {
				p.Models = map[string]prices.Rates{}
				d.names(at, n, false, func(name string, at place, n *node) {
					p.Models[name] = prices.ReadRates(d.Reader, at, n, ParseRate, nil)
				})
			},
		})
		switch {
		case d.Count() > 0:
		case p.Kind == "" || p.BaseURL == "" || p.Key == "":
			d.Report(at, strictyaml.Faultf("write kind, base_url and key", "kind, base_url or key is missing"))
		case strings.HasSuffix(p.BaseURL, "/") || strings.Contains(p.BaseURL, "?"):
			d.Report(at+".base_url", strictyaml.Faultf("leave the end away", "%q ends in a slash or has a query", strictyaml.Shorten(p.BaseURL)))
		case p.Kind == Compatible && p.Models == nil:
			d.Report(at, strictyaml.Faultf("write models with their prices: no price list knows this server", "models is missing"))
		case otherAuthorities(c.Providers, p):
			d.Report(at+".ca", strictyaml.Faultf("write the same ca for each provider at one address", "another provider at this address has another ca"))
		}
		c.Providers[name] = p
	})
}

// ParseRate reads a price, in dollars for a million tokens, as package prices wants it.
func ParseRate(text string) (uint64, error) {
	a, err := ParseAmount(text)
	return uint64(a), err
}
