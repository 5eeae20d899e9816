package e2e

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/alerts"
)

// TestBudgetIsToldOf: when a share of a budget is used, the enclave tells a real receiver over TLS that ends in it, signed and once, also after the enclave
// was started anew; raypherd's log has it, and its metrics say how the calls went and how the budget stands.
func TestBudgetIsToldOf(t *testing.T) {
	type message struct {
		id, at, signature string
		body              []byte
	}
	messages := make(chan message, 16)
	receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		messages <- message{r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), r.Header.Get("Webhook-Signature"), body}
	}))
	receiver.Config.ErrorLog = log.New(io.Discard, "", 0)
	receiver.StartTLS()
	t.Cleanup(receiver.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw})

	metrics := freePort(t)
	h := newHouse(t, "5", "--metrics", metrics)
	const key = "the-key-of-the-receiver"
	if got := h.finish(t.Context(), key+"\n", "keys", "add", "hook", "--key", h.find("operator.key")); got.code != 0 {
		t.Fatalf("keys add: %+v", got)
	}
	h.more = fmt.Sprintf("alerts:\n  - at: 50%%\n    webhook: %s/hook\n    secret: hook\n    ca: |\n      %s\n", receiver.URL, strings.ReplaceAll(strings.TrimSpace(string(ca)), "\n", "\n      "))
	h.install("0.002")
	agent := h.reside(quiet)
	for range 40 {
		if got := agent.do(ask); !answered(got) {
			break
		}
	}
	var told message
	select {
	case told = <-messages:
	case <-time.After(limit):
		t.Fatalf("nobody was told\n%s", h.pair.Log())
	}
	if told.signature == "" || told.signature != alerts.Sign(key, told.id, told.at, told.body) || !strings.Contains(string(told.body), `"level":"run"`) || !strings.Contains(string(told.body), `"type":"spending.threshold"`) {
		t.Errorf("%s, signature %q", told.body, told.signature)
	}
	eventually(t, "raypherd's log has the alert", func() bool { return strings.Contains(h.pair.Log(), "50% of the budget of run test/resident/") })
	page := scrape(t, metrics)
	account := h.provider.Account()
	for _, line := range []string{
		fmt.Sprintf(`raypher_llm_calls_total{model="m",outcome="settled",provider="openai"} %d`, account.Calls),
		fmt.Sprintf(`raypher_budget_spent_usd{level="host",name=""} %v`, float64(account.Charged)/1e6),
		`raypher_llm_refusals_total{cap="run",reason="budget"} 1`, `raypher_ledger_notices_total{kind="alert"} 1`, "raypher_ledger_up 1",
	} {
		if !strings.Contains(page, "\n"+line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if t.Failed() {
		t.Log(page)
	}

	h.pair.KillEnclave()
	if err := h.pair.RestartEnclave(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the budget refuses again", func() bool { return strings.Contains(agent.do(ask), "insufficient_quota") })
	for len(messages) > 0 {
		if again := <-messages; again.id != told.id {
			t.Errorf("told again: %s", again.body)
		}
	}
}

// freePort is a loopback address where nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func scrape(t *testing.T, address string) string {
	t.Helper()
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
