package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/gateway/dialect"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/ledger"
)

// How a call ended.
const (
	OutcomeSettled   = "settled"   // with what the provider said was used
	OutcomeKept      = "kept"      // nobody knows what was used: all that was held counts
	OutcomeWithdrawn = "withdrawn" // no byte of it left
	OutcomeFree      = "free"      // it costs nothing
	OutcomeRefused   = "refused"   // it did not begin
)

// Record is a call that has ended, for those who count. Nothing of what was asked or answered is in it, and no key.
type Record struct {
	Run      Run // empty where the key was no run's
	Provider string
	Kind     string // empty where there is no such provider
	Model    string // as far as it was understood
	Stream   bool
	Outcome  string
	Refusal  string // of a refused call: why, in a word; see refusalWord
	Cap      string // of one that a cap refused: host, namespace, agent or run
	Status   int    // of the provider's answer; 0: there was none
	Worst    cost.Amount
	Cost     cost.Amount // charged or, of a kept one, held
	Usage    dialect.Usage

	Begun     time.Time
	Reserving time.Duration // until the hold was durable
	FirstByte time.Duration // from the call's leaving to the first byte of the answer; 0: there was none
	Lasted    time.Duration // altogether, until it was settled
	Settling  time.Duration
	left      time.Time

	// Said is what headers of the answer say of usage, as "Name: value". Disagreement says where that, or the length that the answer named, is
	// another than what came; empty: nowhere.
	Said         []string
	Disagreement string
}

// observe tells whoever counts. The log has what must not be overlooked.
func (g *Gateway) observe(r *Record) {
	r.Lasted = time.Since(r.Begun)
	if r.Disagreement != "" {
		g.opts.Log.Warn("gateway: a provider contradicts itself", "provider", r.Provider, "model", r.Model, "disagreement", r.Disagreement)
	}
	if g.opts.Observe != nil {
		g.opts.Observe(*r)
	}
}

// refused puts into a record why a call did not begin, or did not come to an answer.
func (r *Record) refused(err error) {
	if r.Outcome == "" {
		r.Outcome = OutcomeRefused
	}
	var of *ledger.Refusal
	if errors.As(err, &of) {
		r.Cap, r.Refusal = of.Level, of.What
		return
	}
	r.Refusal = refusalWord(err)
}

var reasonWords = map[dialect.Reason]string{
	dialect.Invalid: "invalid", dialect.Unauthenticated: "unauthenticated", dialect.Exhausted: "exhausted", dialect.Forbidden: "forbidden", dialect.NotFound: "not_found",
	dialect.TooLarge: "too_large", dialect.RateLimited: "rate_limited", dialect.Unavailable: "unavailable", dialect.Upstream: "upstream",
}

// refusalWord is one of a few, so that it can label a count.
func refusalWord(err error) string {
	var refusal *dialect.Refusal
	switch {
	case errors.Is(err, lease.ErrNoCredit):
		return "credit"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &refusal) && reasonWords[refusal.Reason] != "":
		return reasonWords[refusal.Reason]
	}
	return "internal"
}

// Bounds of what is kept of headers that name usage.
const (
	maxSaid      = 16
	maxSaidBytes = 128 // of one, with its name
)

// saidPrefix begins the names of headers with which some gateways and servers say what a call used.
const saidPrefix = "X-Usage-"

// hear keeps what the headers of an answer say of usage.
func (r *Record) hear(header http.Header) {
	for name, values := range header {
		if !strings.HasPrefix(name, saidPrefix) {
			continue
		}
		for _, value := range values {
			if said := name + ": " + value; len(said) <= maxSaidBytes && len(r.Said) < maxSaid && !strings.ContainsFunc(said, func(c rune) bool { return c < ' ' || c > '~' }) {
				r.Said = append(r.Said, said)
			}
		}
	}
	slices.Sort(r.Said)
}

// compare looks for a disagreement between what headers said, what the body said (known: it said something), and how many bytes came.
func (r *Record) compare(length, came int64, known bool) {
	var differ []string
	if length >= 0 && came != length {
		differ = append(differ, fmt.Sprintf("Content-Length: %d, %d bytes came", length, came))
	}
	for _, said := range r.Said {
		name, text, _ := strings.Cut(said, ": ")
		number, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		body, counts := r.counted(strings.ToLower(name))
		switch {
		case err != nil || !counts:
		case !known:
			differ = append(differ, fmt.Sprintf("%s, the body says nothing", said))
		case number != body:
			differ = append(differ, fmt.Sprintf("%s, the body says %d", said, body))
		}
	}
	r.Disagreement = strings.Join(differ, "; ")
}

// counted is the number of tokens that a header of a name in small letters means; false: none that is known.
func (r *Record) counted(name string) (int64, bool) {
	u := &r.Usage
	input := int64(u.Input) + int64(u.CacheRead) + int64(u.CacheWrite) + int64(u.CacheWrite1h)
	switch {
	case !strings.Contains(name, "token"):
		return 0, false
	case strings.Contains(name, "cache"):
		return int64(u.CacheRead), true
	case strings.Contains(name, "reasoning"):
		return int64(u.Reasoning), true
	case strings.Contains(name, "input"), strings.Contains(name, "prompt"):
		return input, true
	case strings.Contains(name, "output"), strings.Contains(name, "completion"):
		return int64(u.Output), true
	case strings.Contains(name, "total"):
		return input + int64(u.Output), true
	}
	return 0, false
}
