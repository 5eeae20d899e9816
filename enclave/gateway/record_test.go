package gateway_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/gateway"
)

// recorded waits for the next record, which comes after the answer.
func (w *world) recorded(t *testing.T) gateway.Record {
	t.Helper()
	select {
	case r := <-w.records:
		return r
	case <-time.After(time.Minute):
		t.Fatal("no record")
		return gateway.Record{}
	}
}

// Each call leaves one record: how it ended, for whom, what it cost, and why it was refused.
func TestEachCallIsRecordedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		budget, path, body string
		change             func(*world)
		want               gateway.Record
	}{
		"settled": {want: gateway.Record{Outcome: gateway.OutcomeSettled, Status: 200, Cost: 110}},
		"kept": {change: func(w *world) {
			w.answer = func(out http.ResponseWriter, _ *http.Request, _ map[string]any) { fmt.Fprint(out, "{}") }
		}, want: gateway.Record{Outcome: gateway.OutcomeKept, Status: 200}},
		"refused by the provider": {change: func(w *world) {
			w.answer = func(out http.ResponseWriter, _ *http.Request, _ map[string]any) { out.WriteHeader(429) }
		}, want: gateway.Record{Outcome: gateway.OutcomeSettled, Status: 429}},
		"withdrawn": {change: func(w *world) {
			w.dial = func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
		}, want: gateway.Record{Outcome: gateway.OutcomeWithdrawn, Refusal: "upstream"}},
		"no budget": {budget: "0.000001", want: gateway.Record{Outcome: gateway.OutcomeRefused, Refusal: "budget", Cap: "host"}},
		"no price":  {body: `{"model":"other","max_tokens":5,"messages":[]}`, want: gateway.Record{Outcome: gateway.OutcomeRefused, Refusal: "not_found"}},
		"no way":    {path: "/v1/files", want: gateway.Record{Outcome: gateway.OutcomeRefused, Refusal: "not_found"}},
	} {
		t.Run(name, func(t *testing.T) {
			budget, path, body := or(c.budget, "5"), or(c.path, chatPath), or(c.body, chat)
			w := newWorld(t, budget)
			if c.change != nil {
				c.change(w)
			}
			if _, _, _, err := w.ask(t.Context(), path, body); err != nil {
				t.Fatal(err)
			}
			got := w.recorded(t)
			run := gateway.Run{Namespace: "research", Agent: "reader", Run: "r1"}
			if got.Outcome != c.want.Outcome || got.Refusal != c.want.Refusal || got.Cap != c.want.Cap || got.Status != c.want.Status || c.want.Cost != 0 && got.Cost != c.want.Cost || got.Run != run || got.Provider != "models" || got.Kind != string(cost.OpenAI) {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if got.Outcome == gateway.OutcomeKept && (got.Cost != got.Worst || got.Cost == 0) {
				t.Errorf("kept %s of %s", got.Cost, got.Worst)
			}
			if got.Outcome == gateway.OutcomeSettled && got.Status == 200 && (got.Model != "m" || got.Usage.Input != 30 || got.Usage.Output != 20 || got.FirstByte <= 0 || got.Lasted < got.FirstByte) {
				t.Errorf("%+v", got)
			}
			select {
			case more := <-w.records:
				t.Errorf("another record: %+v", more)
			default:
			}
		})
	}
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// What headers say of usage, and the length that an answer names, are compared with what came; the provider's own usage is what counts.
func TestDisagreementsAreSeen(t *testing.T) {
	for name, c := range map[string]struct {
		header map[string]string
		cut    bool // the answer ends before its length
		want   []string
	}{
		"none":           {},
		"the same":       {header: map[string]string{"X-Usage-Input-Tokens": "30", "X-Usage-Output-Tokens": "20", "X-Usage-Total-Tokens": "50", "X-Usage-Cost": "9"}},
		"fewer":          {header: map[string]string{"X-Usage-Output-Tokens": "19"}, want: []string{"X-Usage-Output-Tokens: 19, the body says 20"}},
		"prompt, total":  {header: map[string]string{"X-Usage-Prompt-Tokens": "31", "X-Usage-Total-Tokens": "51"}, want: []string{"X-Usage-Prompt-Tokens: 31, the body says 30", "X-Usage-Total-Tokens: 51, the body says 50"}},
		"a broken end":   {cut: true, want: []string{"Content-Length: 1000, "}},
		"no usage there": {header: map[string]string{"X-Usage-Output-Tokens": "20"}, cut: true, want: []string{"X-Usage-Output-Tokens: 20, the body says nothing"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "5")
			answer := w.answer
			w.answer = func(out http.ResponseWriter, r *http.Request, body map[string]any) {
				for name, value := range c.header {
					out.Header().Set(name, value)
				}
				if c.cut {
					out.Header().Set("Content-Length", "1000")
					fmt.Fprint(out, `{"choices":[]`)
					return
				}
				answer(out, r, body)
			}
			_, _, _, _ = w.ask(t.Context(), chatPath, chat) // it may break off
			got := w.recorded(t)
			for _, want := range c.want {
				if !strings.Contains(got.Disagreement, want) {
					t.Errorf("%q, want %q", got.Disagreement, want)
				}
			}
			if len(c.want) == 0 && got.Disagreement != "" || len(got.Said) != len(c.header) {
				t.Errorf("%q, %q", got.Said, got.Disagreement)
			}
			if want := uint64(110); !c.cut && uint64(w.settled(t)) != want {
				t.Errorf("spent %s", w.settled(t))
			}
		})
	}
}

// A key that was replaced is what the next call is made with.
func TestARotatedKeyCountsForTheNextCall(t *testing.T) {
	w := newWorld(t, "5")
	for _, key := range []string{secret, "sk-the-next-one"} {
		w.secret.Store(key)
		if status, answer, _, err := w.ask(t.Context(), chatPath, chat); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, answer, err)
		}
		w.provider.mu.Lock()
		if got := w.headers[len(w.headers)-1].Get("Authorization"); got != "Bearer "+key {
			t.Errorf("the provider was shown %q", got)
		}
		w.provider.mu.Unlock()
	}
}
