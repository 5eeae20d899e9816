// Package cost is what may be spent: the file cost_control.yaml with budgets, rates, providers and alerts, and amounts of money. It
// parses, validates, compares and signs; it spends nothing and imports neither side. docs/ledger.md explains the file.
package cost

import (
	"crypto/sha256"
	"time"

	"github.com/raypher/raypher/cost/prices"
)

// Control is one cost_control.yaml after parsing. It is immutable.
type Control struct {
	Version     uint64 // goes only upwards
	TimeZone    string // IANA name: whose months they are
	OnExhausted OnExhausted
	Host        Limits
	PerRun      Limits // of each run that no inner section says more about
	Namespaces  map[string]Scope
	Alerts      []Alert
	Providers   map[string]Provider

	location *time.Location
	hash     [sha256.Size]byte
}

// Scope is the caps of a namespace or of an agent.
type Scope struct {
	Limits
	PerRun Limits
	Agents map[string]Scope // of a namespace; nil of an agent
}

// OnExhausted is what happens to a call that a budget refuses.
type OnExhausted string

// The ways.
const (
	Refuse OnExhausted = "refuse" // at once, in the provider's own form of an error
	Pause  OnExhausted = "pause"  // it waits for an operator's top-up
)

// Alert tells somebody, once in a month, that a share of a budget is used.
type Alert struct {
	At      uint64 // percent, 1 to 100
	Webhook string // https URL
	Secret  string // name of the key that signs the message; empty: it is not signed
	CA      string // as that of a provider
}

// Kind is the protocol of a provider.
type Kind string

// The kinds.
const (
	OpenAI     Kind = "openai"
	Anthropic  Kind = "anthropic"
	Gemini     Kind = "gemini"
	Compatible Kind = "openai-compatible"
)

// Provider is a service that charges for models.
type Provider struct {
	Kind    Kind
	BaseURL string                  // https, without a slash at its end
	Key     string                  // name of the API key that the enclave holds
	CA      string                  // PEM, the authorities that its certificate may be under; empty: the public ones
	Models  map[string]prices.Rates // that may be called, with what they cost; nil: those of the price list
}

// Hash is SHA-256 of Canonical.
func (c *Control) Hash() [sha256.Size]byte { return c.hash }

// Month returns the bounds of a month, as 2026-11, in the zone of the file.
func (c *Control) Month(month string) (begin, end time.Time, err error) {
	begin, err = time.ParseInLocation("2006-01", month, c.location)
	if err != nil {
		return time.Time{}, time.Time{}, err
	}
	return begin, begin.AddDate(0, 1, 0), nil
}

// MonthOf is the month of a time, as 2026-11, in the zone of the file.
func (c *Control) MonthOf(t time.Time) string { return t.In(c.location).Format("2006-01") }

// Raised is the file of another version with a larger budget of the host.
func (c *Control) Raised(more Amount, version uint64) (*Control, error) {
	raised := *c
	raised.Version = version
	if c.Host.Budget != nil {
		sum := *c.Host.Budget + more
		raised.Host.Budget = &sum
	}
	return ParseCanonical(raised.Canonical())
}
