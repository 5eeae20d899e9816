package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/journal"
)

const (
	chatPath = "/v1/chat/completions"
	chat     = `{"model":"m","max_tokens":500,"messages":[{"role":"user","content":"hello"}]}`
	stream   = `{"model":"m","max_tokens":500,"stream":true,"messages":[{"role":"user","content":"hello"}]}`
)

// What a provider charges is what the ledger says was spent, for each protocol, streamed or not.
func TestCallsAreSettledAsTheyAreCharged(t *testing.T) {
	events := func(lines ...string) func(*world) func(http.ResponseWriter, *http.Request, map[string]any) {
		return func(w *world) func(http.ResponseWriter, *http.Request, map[string]any) {
			return func(out http.ResponseWriter, _ *http.Request, _ map[string]any) {
				w.charge(30, 20)
				out.Header().Set("Content-Type", "text/event-stream")
				for _, line := range lines {
					fmt.Fprintf(out, "data: %s\n\n", line)
				}
			}
		}
	}
	one := func(answer string) func(*world) func(http.ResponseWriter, *http.Request, map[string]any) {
		return func(w *world) func(http.ResponseWriter, *http.Request, map[string]any) {
			return func(out http.ResponseWriter, _ *http.Request, _ map[string]any) {
				w.charge(30, 20)
				out.Header().Set("Content-Type", "application/json")
				fmt.Fprint(out, answer)
			}
		}
	}
	cases := map[string]struct {
		kind       cost.Kind
		path, body string
		answer     func(*world) func(http.ResponseWriter, *http.Request, map[string]any)
	}{
		"chat":      {cost.OpenAI, chatPath, chat, one(`{"usage":{"prompt_tokens":30,"completion_tokens":20}}`)},
		"a stream":  {cost.OpenAI, chatPath, stream, events(`{"choices":[{}]}`, `{"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":20}}`, `[DONE]`)},
		"elsewhere": {cost.Compatible, chatPath, chat, one(`{"usage":{"prompt_tokens":30,"completion_tokens":20}}`)},
		"responses": {cost.OpenAI, "/v1/responses", `{"model":"m","input":"hello"}`, one(`{"object":"response","usage":{"input_tokens":30,"output_tokens":20}}`)},
		"messages":  {cost.Anthropic, "/v1/messages?beta=true", `{"model":"m","max_tokens":90,"messages":[]}`, one(`{"type":"message","usage":{"input_tokens":30,"output_tokens":20}}`)},
		"generate":  {cost.Gemini, "/v1beta/models/m:generateContent?key=x", `{"contents":[]}`, one(`{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":30,"candidatesTokenCount":20}}`)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "5")
			w.kind, w.answer = c.kind, c.answer(w)
			status, answer, _, err := w.ask(t.Context(), c.path, c.body)
			if err != nil || status != http.StatusOK {
				t.Fatalf("%d %s %v", status, answer, err)
			}
			if got, want := w.settled(t), w.charged.Load(); uint64(got) != want || want == 0 {
				t.Errorf("the ledger has %s, the provider charged %s", got, cost.Amount(want))
			}
		})
	}
}

// settled waits until nothing is held, as the ledger is told after the answer, and returns what is spent.
func (w *world) settled(t *testing.T) cost.Amount {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if b := w.balance(); b.Held == 0 {
			return b.Spent
		}
	}
	t.Fatalf("calls are not settled: %+v", w.balance())
	return 0
}

// However many call at once, the provider never charges more than the cap, and small calls can use nearly all of it.
func TestTheCapIsNeverPassed(t *testing.T) {
	callers, dollars := 200, uint64(5)
	if testing.Short() { // under the race detector
		callers, dollars = 40, 1
	}
	w := newWorld(t, fmt.Sprint(dollars))
	w.answer = func(out http.ResponseWriter, _ *http.Request, body map[string]any) {
		most, _ := body["max_tokens"].(float64)
		input, output := 50+rand.Uint64N(20), 1+rand.Uint64N(uint64(most))
		switch rand.IntN(10) {
		case 0: // charged, and then it breaks off
			w.charge(input, output)
			panic(http.ErrAbortHandler)
		case 1: // charged, and not said
			w.charge(input, output)
			fmt.Fprint(out, `{"choices":[]}`)
		case 2:
			out.WriteHeader(http.StatusTooManyRequests)
		default:
			w.chat(input, output)(out, nil, nil)
		}
	}
	var wait sync.WaitGroup
	for range callers {
		wait.Go(func() {
			for {
				status, _, _, err := w.ask(t.Context(), chatPath, `{"model":"m","max_tokens":1000,"messages":[]}`)
				if err != nil {
					t.Error(err)
					return
				}
				if status == http.StatusPaymentRequired {
					return
				}
			}
		})
	}
	wait.Wait()
	spent, charged := w.settled(t), cost.Amount(w.charged.Load())
	if most := cost.Amount(dollars * 1_000_000); charged > most || spent > most || charged > spent {
		t.Errorf("charged %s, spent %s, of %s", charged, spent, most)
	}
	if spent < cost.Amount(dollars*950_000) {
		t.Errorf("only %s of %d dollars could be used", spent, dollars)
	}
	t.Logf("%d calls of %d callers: the provider charged %s, %s counts as spent of %d.00", w.asked.Load(), callers, charged, spent, dollars)
}

// What ends otherwise than with usage is settled by what is known: nothing that may have been charged is given back.
func TestCallsThatFail(t *testing.T) {
	refuse := func(status int) func(*world) {
		return func(w *world) {
			w.answer = func(out http.ResponseWriter, _ *http.Request, _ map[string]any) {
				out.Header().Set("Retry-After", "7")
				http.Error(out, `{"error":"no"}`, status)
			}
		}
	}
	cases := map[string]struct {
		change func(*world)
		status int
		kept   bool
	}{
		"429 with a time to wait":        {refuse(429), 429, false},
		"400":                            {refuse(400), 400, false},
		"529":                            {refuse(529), 529, false},
		"408, which may have been begun": {refuse(408), 408, true},
		"500":                            {refuse(500), 500, true},
		"504":                            {refuse(504), 504, true},
		"a redirect, which nobody follows": {func(w *world) {
			w.answer = func(out http.ResponseWriter, r *http.Request, _ map[string]any) {
				http.Redirect(out, r, "/v1/elsewhere", http.StatusTemporaryRedirect)
			}
		}, 307, true},
		"no usage": {func(w *world) {
			w.answer = func(out http.ResponseWriter, _ *http.Request, _ map[string]any) { fmt.Fprint(out, `{}`) }
		}, 200, true},
		"no answer": {func(w *world) {
			w.answer = func(http.ResponseWriter, *http.Request, map[string]any) { panic(http.ErrAbortHandler) }
		}, 502, true},
		"nobody there": {func(w *world) {
			w.dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("no route to 10.1.2.3")
			}
		}, 502, false},
		"a certificate of another name": {func(w *world) {
			w.base = strings.Replace(w.URL, "127.0.0.1", "elsewhere.test", 1)
			dial := w.dial
			w.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				return dial(ctx, network, strings.Replace(address, "elsewhere.test", "127.0.0.1", 1))
			}
		}, 502, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "5")
			c.change(w)
			status, answer, header, err := w.ask(t.Context(), chatPath, chat)
			if err != nil || status != c.status {
				t.Fatalf("%d %s %v, expected %d", status, answer, err, c.status)
			}
			if strings.Contains(answer, "10.1.2.3") {
				t.Errorf("the answer says what only the log should: %s", answer)
			}
			if status == 429 && header.Get("Retry-After") != "7" {
				t.Error("Retry-After is not handed on")
			}
			spent := w.settled(t)
			if worst := w.worst(t); c.kept && spent != worst || !c.kept && spent != 0 {
				t.Errorf("%s counts as spent of a hold of %s; kept: %v", spent, worst, c.kept)
			}
			if n := w.asked.Load(); n > 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// worst of the one reservation in the journal.
func (w *world) worst(t *testing.T) cost.Amount {
	t.Helper()
	w.journal.mu.Lock()
	defer w.journal.mu.Unlock()
	for _, e := range w.journal.entries {
		if e.Type != journal.TypeReservation {
			continue
		}
		r, err := journal.DecodeReservation(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		return cost.Amount(r.Worst)
	}
	t.Fatal("nothing was reserved")
	return 0
}

// An answer that breaks off breaks off at the client too, however it was sent.
func TestAnswersThatBreakOff(t *testing.T) {
	for name, header := range map[string][2]string{"a stream": {"Content-Type", "text/event-stream"}, "a document": {"Content-Type", "application/json"}, "its length said": {"Content-Length", "900"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "5")
			w.answer = func(out http.ResponseWriter, _ *http.Request, _ map[string]any) {
				out.Header().Set(header[0], header[1])
				fmt.Fprint(out, "data: {\"choices\":[{}]}\n\n")
				_ = http.NewResponseController(out).Flush()
				panic(http.ErrAbortHandler)
			}
			if status, answer, _, err := w.ask(t.Context(), chatPath, stream); err == nil {
				t.Errorf("%d %q, and no error", status, answer)
			}
			if spent := w.settled(t); spent != w.worst(t) {
				t.Errorf("%s counts as spent", spent)
			}
		})
	}
}

// Whoever waits for an answer does not wait for its settlement.
func TestAnswersDoNotWaitForTheirSettlement(t *testing.T) {
	w := newWorld(t, "5")
	slow, inner := make(chan struct{}), w.answer
	w.answer = func(out http.ResponseWriter, r *http.Request, body map[string]any) {
		w.journal.slow.Store(&slow)
		inner(out, r, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if status, answer, _, err := w.ask(ctx, chatPath, chat); err != nil || status != http.StatusOK {
		t.Errorf("%d %s %v", status, answer, err)
	}
	close(slow)
	w.settled(t)
}

// A client that goes away in the middle of a stream pays what was used, which stands at its end.
func TestAClientThatGoesAway(t *testing.T) {
	w := newWorld(t, "5")
	begun, gone := make(chan struct{}), make(chan struct{})
	w.answer = func(out http.ResponseWriter, _ *http.Request, _ map[string]any) {
		out.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(out, "data: {\"choices\":[{}]}\n\n")
		_ = http.NewResponseController(out).Flush()
		close(begun)
		<-gone
		for range 100 {
			fmt.Fprintf(out, "data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", strings.Repeat("x", 10_000))
		}
		w.charge(30, 20)
		fmt.Fprint(out, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":30,\"completion_tokens\":20}}\n\ndata: [DONE]\n\n")
	}
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, _, err := w.ask(ctx, chatPath, stream)
		done <- err
	}()
	<-begun
	leave()
	if err := <-done; err == nil {
		t.Fatal("the client did not go away")
	}
	close(gone)
	if spent := w.settled(t); uint64(spent) != w.charged.Load() {
		t.Errorf("%s counts as spent, %s was charged", spent, cost.Amount(w.charged.Load()))
	}
}

// What is refused never reaches the provider, and reads as an error of the provider.
func TestRefusalsStayHere(t *testing.T) {
	w := newWorld(t, "0.001")
	cases := map[string]struct {
		path, body, key string
		status          int
		says            string
	}{
		"no key":              {chatPath, chat, "", 401, "raypher run"},
		"another key":         {chatPath, chat, pass + "x", 401, "raypher run"},
		"no such provider":    {"/../others/v1/chat/completions", chat, pass, 404, "others"},
		"no such endpoint":    {"/v1/batches", `{}`, pass, 404, "endpoint"},
		"no price":            {chatPath, `{"model":"other","messages":[]}`, pass, 404, "no price"},
		"a query":             {chatPath + "?tier=fast", chat, pass, 400, "tier"},
		"above the budget":    {chatPath, chat, pass, 402, "insufficient_quota"},
		"too large a request": {chatPath, `{"model":"m","x":"` + strings.Repeat("x", 33<<20) + `"}`, pass, 413, "bytes"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequest(http.MethodPost, w.url+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.key != "" {
				r.Header.Set("Authorization", "Bearer "+c.key)
			}
			response, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			answer, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != c.status || !strings.Contains(string(answer), c.says) {
				t.Errorf("%d %s %v, expected %d with %q", response.StatusCode, answer, err, c.status, c.says)
			}
		})
	}
	if n := w.asked.Load(); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
	if b := w.balance(); b.Spent != 0 || b.Held != 0 {
		t.Errorf("%+v", b)
	}
}

// Without a journal that keeps it, no call leaves.
func TestNothingLeavesWithoutAJournal(t *testing.T) {
	w := newWorld(t, "5")
	w.journal.gone.Store(true)
	status, answer, _, err := w.ask(t.Context(), chatPath, chat)
	if err != nil || status != http.StatusServiceUnavailable || w.asked.Load() != 0 {
		t.Errorf("%d %s %v, the provider was asked %d times", status, answer, err, w.asked.Load())
	}
}

// No header gives a model a larger window than its price says, for what is opaque is held as that window.
func TestWindowsStayAsTheirPricesSay(t *testing.T) {
	w := newWorld(t, "5")
	w.kind = cost.Anthropic
	r, err := http.NewRequest(http.MethodPost, w.url+"/v1/messages", strings.NewReader(`{"model":"m","max_tokens":9,"messages":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", pass)
	r.Header["Anthropic-Beta"] = []string{"one-2025-01-01, Context-1M-2025-08-07", "context-1m-2025-08-07,two-2025-01-01"}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if got := w.headers[0]["Anthropic-Beta"]; fmt.Sprint(got) != "[one-2025-01-01,two-2025-01-01]" {
		t.Errorf("the provider got %q", got)
	}
}

// The provider gets its key and not the handle; the agent gets neither key nor state.
func TestKeysStayApart(t *testing.T) {
	w := newWorld(t, "5")
	inner := w.answer
	w.answer = func(out http.ResponseWriter, r *http.Request, body map[string]any) {
		out.Header().Set("Set-Cookie", "a=b")
		out.Header().Set("X-Request-Id", "42")
		inner(out, r, body)
	}
	r, err := http.NewRequest(http.MethodPost, w.url+"/v1/chat/completions?key="+pass, strings.NewReader(chat))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Authorization": "Bearer " + pass, "X-Stainless-Lang": "js", "User-Agent": "agent/1", "Cookie": "c=d", "Idempotency-Key": "once",
		"Openai-Organization": "another", "X-Forwarded-For": "10.0.0.1",
	} {
		r.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	sent := fmt.Sprint(w.headers, w.urls)
	for _, there := range []string{secret, "js", "agent/1", "/v1/chat/completions"} {
		if !strings.Contains(sent, there) {
			t.Errorf("the provider did not get %q: %s", there, sent)
		}
	}
	for _, not := range []string{pass, "c=d", "once", "another", "10.0.0.1", "/v1/v1"} {
		if strings.Contains(sent, not) {
			t.Errorf("the provider got %q: %s", not, sent)
		}
	}
	if got := fmt.Sprint(response.Header); strings.Contains(got, "a=b") || strings.Contains(got, secret) || !strings.Contains(got, "42") {
		t.Errorf("the agent got %s", got)
	}
}
