package telemetry_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/parent/telemetry"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// otlp is a collector that keeps what it is sent.
type otlp struct {
	*httptest.Server
	spans chan *tracev1.Span
}

func newOTLP(t *testing.T) *otlp {
	o := &otlp{spans: make(chan *tracev1.Span, 64)}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(raw, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, span := range scope.Spans {
					o.spans <- span
				}
			}
		}
	}))
	t.Cleanup(o.Close)
	return o
}

var begun = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// seen is what the enclave observes in these tests.
var seen = []*enclavev1.Observation{
	{Call: &enclavev1.CallRecord{
		Namespace: "n", Agent: "a", Run: "r", Provider: "anthropic", Kind: "anthropic", Model: "claude", Stream: true, Outcome: "settled", Status: 200, Worst: 2_000_000, Cost: 1_500_000,
		Input: 100, CacheRead: 1000, CacheWrite: 10, Output: 50, Reasoning: 20, BegunUnixNano: begun.UnixNano(), LastedNanos: 3e9, FirstByteNanos: 4e8, ReservingNanos: 3e6, SettlingNanos: 4e6,
		Disagreement: "X-Usage-Output-Tokens: 49, the body says 50",
	}},
	{Lost: 7, Call: &enclavev1.CallRecord{
		Namespace: "n", Agent: "a", Run: "r", Provider: "google", Kind: "gemini", Model: "gemini", Outcome: "refused", Refusal: "budget", Cap: "agent", Worst: 9, BegunUnixNano: begun.UnixNano(), LastedNanos: 1e6,
	}},
	{Call: &enclavev1.CallRecord{Outcome: "refused", Refusal: "unauthenticated"}},
	{Notice: &enclavev1.Notice{Kind: "alert", Words: "80% of the budget of host"}},
}

func budget(n uint64) *uint64 { return &n }

// run runs telemetry until the test ends or stop is called.
func run(t *testing.T, spending func(context.Context) (*enclavev1.SpendingStatus, error), endpoint string) (url string, log *buffer, stop func()) {
	t.Helper()
	l, err := telemetry.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log = new(buffer)
	ctx, cancel := context.WithCancel(context.Background())
	told, ended := make(chan struct{}), make(chan error, 1)
	first := true
	go func() {
		ended <- telemetry.Run(ctx, telemetry.Options{
			Metrics: l, OTLP: endpoint, Version: "v", Spending: spending, Log: slog.New(slog.NewTextHandler(log, nil)),
			Observe: func(ctx context.Context, each func(*enclavev1.Observation)) error {
				if first {
					first = false
					for _, o := range seen {
						each(o)
					}
					close(told)
				}
				<-ctx.Done()
				return ctx.Err()
			},
		})
	}()
	<-told
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return "http://" + l.Addr().String(), log, stop
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// TestMetrics: what Prometheus reads is what happened, and how the caps stand now; runs are not named.
func TestMetrics(t *testing.T) {
	url, log, _ := run(t, func(context.Context) (*enclavev1.SpendingStatus, error) {
		return &enclavev1.SpendingStatus{Accounts: []*enclavev1.SpendingAccount{
			{Level: "host", Spent: 2_000_000, Held: 500_000, Lost: 100_000, Budget: budget(10_000_000)},
			{Level: "namespace", Name: "n", Spent: 2_000_000, Held: 500_000, Budget: budget(2_000_000), Closed: true},
			{Level: "agent", Name: "n/a", Spent: 1},
			{Level: "run", Name: "n/a/r", Spent: 1, Budget: budget(5)},
		}}, nil
	}, "")
	status, text := get(t, url+"/metrics")
	if status != http.StatusOK || strings.Contains(text, "n/a/r") {
		t.Errorf("status %d\n%s", status, text)
	}
	for _, line := range []string{
		`raypher_llm_calls_total{model="claude",outcome="settled",provider="anthropic"} 1`,
		`raypher_llm_calls_total{model="gemini",outcome="refused",provider="google"} 1`,
		`raypher_llm_tokens_total{model="claude",provider="anthropic",type="input"} 100`,
		`raypher_llm_tokens_total{model="claude",provider="anthropic",type="cache_read"} 1000`,
		`raypher_llm_tokens_total{model="claude",provider="anthropic",type="cache_write"} 10`,
		`raypher_llm_tokens_total{model="claude",provider="anthropic",type="output"} 50`,
		`raypher_llm_tokens_total{model="claude",provider="anthropic",type="reasoning"} 20`,
		`raypher_llm_cost_usd_total{model="claude",provider="anthropic"} 1.5`,
		`raypher_llm_refusals_total{cap="agent",reason="budget"} 1`,
		`raypher_llm_refusals_total{cap="",reason="unauthenticated"} 1`,
		`raypher_llm_disagreements_total{provider="anthropic"} 1`,
		`raypher_llm_settle_seconds_bucket{le="0.005"} 1`,
		`raypher_llm_settle_seconds_bucket{le="0.002"} 0`,
		`raypher_llm_reserve_seconds_count 1`,
		`raypher_llm_call_seconds_sum{model="claude",provider="anthropic"} 3`,
		`raypher_llm_first_byte_seconds_sum{model="claude",provider="anthropic"} 0.4`,
		`raypher_ledger_notices_total{kind="alert"} 1`,
		`raypher_telemetry_lost_total 7`,
		`raypher_ledger_up 1`,
		`raypher_budget_limit_usd{level="host",name=""} 10`,
		`raypher_budget_spent_usd{level="host",name=""} 2`,
		`raypher_budget_held_usd{level="host",name=""} 0.5`,
		`raypher_budget_lost_usd{level="host",name=""} 0.1`,
		`raypher_budget_available_usd{level="host",name=""} 7.4`,
		`raypher_budget_available_usd{level="namespace",name="n"} 0`,
		`raypher_budget_closed{level="namespace",name="n"} 1`,
		`raypher_budget_spent_usd{level="agent",name="n/a"} 1e-06`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	if status, _ := get(t, url+"/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("another page: %d", status)
	}
	if said := log.String(); !strings.Contains(said, "80% of the budget of host") || !strings.Contains(said, "the body says 50") {
		t.Errorf("the log:\n%s", said)
	}
}

// TestNoLedger: where the enclave does not answer, or does not know its journal, no balance is made up.
func TestNoLedger(t *testing.T) {
	for name, spending := range map[string]func(context.Context) (*enclavev1.SpendingStatus, error){
		"away": func(context.Context) (*enclavev1.SpendingStatus, error) { return nil, errors.New("away") },
		"unread": func(context.Context) (*enclavev1.SpendingStatus, error) {
			return &enclavev1.SpendingStatus{Unread: true, Accounts: []*enclavev1.SpendingAccount{{Level: "host"}}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, _, _ := run(t, spending, "")
			if _, text := get(t, url+"/metrics"); !strings.Contains(text, "\nraypher_ledger_up 0\n") || strings.Contains(text, "raypher_budget") {
				t.Error(text)
			}
		})
	}
}

// TestSpans: a real collector gets a span of each call of a known model, with the names of the semantic conventions.
func TestSpans(t *testing.T) {
	o := newOTLP(t)
	_, _, stop := run(t, func(context.Context) (*enclavev1.SpendingStatus, error) { return nil, errors.New("away") }, o.URL)
	stop() // what waits is sent
	close(o.spans)
	var got []*tracev1.Span
	for span := range o.spans {
		got = append(got, span)
	}
	if len(got) != 2 {
		t.Fatalf("%d spans: %v", len(got), got)
	}
	slices.SortFunc(got, func(a, b *tracev1.Span) int { return strings.Compare(a.Name, b.Name) })
	call, refused := got[0], got[1]
	if call.Name != "chat claude" || call.Kind != tracev1.Span_SPAN_KIND_CLIENT || call.StartTimeUnixNano != uint64(begun.UnixNano()) || call.EndTimeUnixNano-call.StartTimeUnixNano != 3e9 || call.Status.GetCode() == tracev1.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", call)
	}
	if refused.Name != "generate_content gemini" || refused.Status.GetCode() != tracev1.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", refused)
	}
	for _, c := range []struct {
		span *tracev1.Span
		want map[string]string
	}{
		{call, map[string]string{
			"gen_ai.operation.name": `string_value:"chat"`, "gen_ai.provider.name": `string_value:"anthropic"`, "gen_ai.request.model": `string_value:"claude"`, "gen_ai.agent.name": `string_value:"a"`,
			"gen_ai.usage.input_tokens": "int_value:1110", "gen_ai.usage.output_tokens": "int_value:50", "gen_ai.usage.cache_read.input_tokens": "int_value:1000",
			"gen_ai.usage.cache_creation.input_tokens": "int_value:10", "gen_ai.usage.reasoning.output_tokens": "int_value:20", "gen_ai.request.stream": "bool_value:true",
			"raypher.cost_usd": `string_value:"1.50"`, "raypher.outcome": `string_value:"settled"`, "raypher.run": `string_value:"r"`, "http.response.status_code": "int_value:200",
		}},
		{refused, map[string]string{"gen_ai.provider.name": `string_value:"gcp.gemini"`, "error.type": `string_value:"budget"`, "raypher.cap": `string_value:"agent"`}},
	} {
		has := map[string]string{}
		for _, a := range c.span.Attributes {
			has[a.Key] = strings.ReplaceAll(a.Value.String(), " ", "")
		}
		for key, want := range c.want {
			if has[key] != want {
				t.Errorf("%s of %s: %s, want %s", key, c.span.Name, has[key], want)
			}
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, address := range []string{"", "0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "localhost:9464", ":9464"} {
		if l, err := telemetry.Listen(address); err == nil {
			l.Close()
			t.Errorf("%q is served", address)
		}
	}
	for endpoint, good := range map[string]bool{"http://127.0.0.1:4318": true, "https://otel.example.com/v1/traces": true, "127.0.0.1:4318": false, "grpc://x": false, "http://": false} {
		if err := telemetry.CheckOTLP(endpoint); (err == nil) != good {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}
