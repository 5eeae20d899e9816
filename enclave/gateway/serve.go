package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/enclave/gateway/dialect"
	"github.com/raypher/raypher/journal"
)

// serve holds, calls, hands on and settles. An error means that nothing of an answer was written yet.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, a *attempt) error {
	if a.entry != nil {
		begun := time.Now()
		err := g.opts.Ledger.Reserve(r.Context(), a.entry)
		a.record.Reserving = time.Since(begun)
		if err != nil {
			return refusalOf(err)
		}
	}
	// From here on the client may go, and what it asked for is charged all the same.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	gone := context.AfterFunc(r.Context(), func() { time.AfterFunc(drainTimeout, cancel) })
	defer gone()

	answer, err := g.send(ctx, a)
	if err != nil {
		g.end(a, outcomeOf(err), dialect.Usage{})
		return err
	}
	defer answer.Body.Close()
	copyHeader(w.Header(), answer.Header, a.secret)
	a.record.hear(w.Header())
	if answer.StatusCode >= 300 {
		return g.fail(w, answer, a)
	}
	meter := a.call.Meter(answer.Header.Get("Content-Type"))
	if answer.ContentLength >= 0 && meter.Unchanged() {
		// So the client has all of the answer when it has come, and does not wait for the settlement.
		w.Header().Set("Content-Length", strconv.FormatInt(answer.ContentLength, 10))
	}
	w.WriteHeader(answer.StatusCode)
	how, usage, whole := g.stream(w, answer, a, meter)
	g.end(a, how, usage)
	if !whole {
		return errBrokeOff
	}
	return nil
}

// fail hands on an answer that is an error or a redirect. Some say the key again, which the agent is not to see.
func (g *Gateway) fail(w http.ResponseWriter, answer *http.Response, a *attempt) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxError+1))
	a.record.FirstByte = time.Since(a.record.left)
	a.record.compare(answer.ContentLength, int64(len(body)), false)
	defer g.end(a, charged(answer.StatusCode), dialect.Usage{}) // nobody waits for it
	if err != nil || len(body) > maxError {
		return errBrokeOff
	}
	w.WriteHeader(answer.StatusCode)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	_, _ = w.Write(bytes.ReplaceAll(body, []byte(a.secret), []byte("[key]"))) // the client may have gone
	return nil
}

// outcome is how a call ends for the ledger.
type outcome int

const (
	keep     outcome = iota // nobody knows what was used
	settle                  // the provider says what was used
	withdraw                // no byte of it left
)

// outcomeOf is the one of a call without an answer.
func outcomeOf(err error) outcome {
	var refusal *dialect.Refusal
	if errors.As(err, &refusal) && errors.Is(refusal.Cause, errNotSent) {
		return withdraw
	}
	return keep
}

// send sends a call once. The transport sends it again only where nothing of it was written, or where an HTTP/2 peer says that it was not
// worked on (RFC 9113, section 8.7): headers that would make it believe more, Idempotency-Key, are not passed.
func (g *Gateway) send(ctx context.Context, a *attempt) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, a.method, a.url.String(), bytes.NewReader(a.call.Body))
	if err != nil {
		return nil, err
	}
	request.Header = a.header
	a.record.left = time.Now()
	// RoundTrip follows no redirects: a redirect is an answer.
	answer, err := g.transport.RoundTrip(request)
	if err != nil {
		g.opts.Log.Warn("gateway", "provider", a.provider, "error", strings.ReplaceAll(err.Error(), a.secret, "[key]")) // it quotes what is no HTTP
		return nil, &dialect.Refusal{Reason: dialect.Upstream, Message: "provider " + a.provider + " did not answer: " + reason(err), Cause: err}
	}
	if answer.StatusCode < 200 || answer.StatusCode > 999 { // 101 would make it another protocol's
		answer.Body.Close()
		return nil, &dialect.Refusal{Reason: dialect.Upstream, Message: fmt.Sprintf("provider %s answered with status %d, which is none", a.provider, answer.StatusCode)}
	}
	answer.Request, a.call.Body = nil, nil // a stream may go on for long
	a.free()
	a.record.Status = answer.StatusCode
	return answer, nil
}

// reason says without addresses or certificates what went wrong.
func reason(err error) string {
	switch {
	case errors.Is(err, errNotSent):
		return "it cannot be reached"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "it took too long"
	default:
		return "the connection failed; the enclave's log says why"
	}
}

// stream hands an answer on as it comes. When the client has gone the rest is read all the same, for its end says what was used. whole: it
// came to its end.
func (g *Gateway) stream(w http.ResponseWriter, answer *http.Response, a *attempt, meter *dialect.Meter) (how outcome, usage dialect.Usage, whole bool) {
	flusher := http.NewResponseController(w)
	there := true
	hand := func(p []byte) {
		if !there || len(p) == 0 {
			return
		}
		_ = flusher.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(p); err != nil || flusher.Flush() != nil {
			there = false
		}
	}
	buffer := make([]byte, 8<<10) // a thousand streams wait with theirs
	came, room := int64(0), kept{all: &g.answers}
	defer room.free()
	for {
		n, err := answer.Body.Read(buffer)
		if came += int64(n); n > 0 && a.record.FirstByte == 0 {
			a.record.FirstByte = time.Since(a.record.left)
		}
		if n > 0 {
			hand(room.feed(meter, buffer[:n]))
		}
		if err == nil {
			continue
		}
		whole = errors.Is(err, io.EOF)
		rest, usage, ok := meter.End(whole && (delimited(answer) || !meter.Events()))
		hand(rest)
		if ok {
			a.record.Usage = usage
		}
		a.record.compare(answer.ContentLength, came, ok)
		if !ok {
			return keep, dialect.Usage{}, whole
		}
		return settle, usage, whole
	}
}

// delimited says whether an answer has an end of its own. Without it, whoever stands between ends it by ending the connection.
func delimited(answer *http.Response) bool {
	return answer.ProtoMajor >= 2 || answer.ContentLength >= 0 || len(answer.TransferEncoding) > 0
}

// charged is how a call ends whose answer is an error. One that the provider blames on the request, 400 to 499, it has not worked on, and
// by 503 and 529 it says that it did not begin. Of others, 408 among them, nobody knows how far it came.
func charged(status int) outcome {
	if status >= 400 && status < 500 && status != http.StatusRequestTimeout || status == http.StatusServiceUnavailable || status == statusOverloaded {
		return settle
	}
	return keep
}

// statusOverloaded is Anthropic's status of an overloaded service.
const statusOverloaded = 529

// end tells the ledger, and does not wait until the journal has it: the next call of the client would wait too. The client need not be there, and a hold that cannot be settled stays, so the only harm of a failure is that
// too much counts as spent.
func (g *Gateway) end(a *attempt, how outcome, used dialect.Usage) {
	if a.entry == nil {
		a.record.Outcome = OutcomeFree
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	begun := time.Now()
	entry := &journal.Settlement{ID: a.entry.ID, Outcome: journal.Kept}
	switch how {
	case settle:
		u := usage(used)
		a.record.Outcome, a.record.Cost = OutcomeSettled, cost.Amount(a.rates.Cost(u))
		entry.Outcome, entry.Actual, entry.Tokens = journal.Settled, uint64(a.record.Cost), u.Tokens()
	case withdraw:
		a.record.Outcome, entry.Outcome = OutcomeWithdrawn, journal.Withdrawn
	default:
		a.record.Outcome, a.record.Cost = OutcomeKept, a.entry.Worst
	}
	err := g.opts.Ledger.End(ctx, entry)
	a.record.Settling = time.Since(begun)
	if err != nil {
		g.opts.Log.Error("gateway: a call was not settled", "provider", a.provider, "request", a.entry.ID, "error", err)
	}
}

func usage(u dialect.Usage) prices.Usage {
	return prices.Usage{
		Input: uint64(u.Input), CachedInput: uint64(u.CacheRead), CacheWrite: uint64(u.CacheWrite), CacheWrite1h: uint64(u.CacheWrite1h),
		Output: uint64(u.Output - u.Reasoning), Reasoning: uint64(u.Reasoning),
	}
}
