package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/test/provider"
)

// house is a machine whose agents call the models of a provider with TLS, through the gateway.
type house struct {
	*machine
	provider *provider.Provider
	port     int
	secret   string // the key at the provider
	version  int    // of the cost control
}

// ratesOfTheHouse are a dollar and four for a million tokens.
var ratesOfTheHouse = &prices.Rates{Band: prices.Band{Input: 1_000_000, Output: 4_000_000}, Context: 200_000, MaxOutput: 32_000}

// quiet is a policy that reaches nothing over the network.
const quiet = `
namespace: test
filesystem:
  read: [~/work/**, /usr/**, "/{bin,lib,lib64,etc,proc}/**", "/dev/{null,urandom,tty}"]
  write: [~/work/**, "/dev/{null,tty}"]
  exec: [/usr/**, "/{bin,lib,lib64}/**"]
network:
  on_deny: reject
`

// newHouse starts a provider and a machine whose enclave has a key for it, and a budget in dollars.
func newHouse(t *testing.T, budget string) *house {
	t.Helper()
	m := newMachine(t)
	h := &house{machine: m, secret: fmt.Sprintf("sk-real-%x", []byte(t.Name()))}
	var err error
	h.provider, err = provider.New(provider.Options{Key: h.secret, Names: []string{"127.0.0.1"}, Rates: func(string) (*prices.Rates, bool) { return ratesOfTheHouse, true }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.port = l.Addr().(*net.TCPAddr).Port
	served := make(chan struct{})
	go func() { defer close(served); _ = h.provider.Serve(l) }()
	t.Cleanup(func() { l.Close(); <-served })
	h.install(budget)
	if got := m.finish(context.WithoutCancel(t.Context()), h.secret+"\n", "keys", "add", "house", "--key", m.find("operator.key")); got.code != 0 {
		t.Fatalf("keys add: %+v", got)
	}
	return h
}

// install puts a budget in force.
func (h *house) install(budget string) {
	h.t.Helper()
	h.version++
	text := fmt.Sprintf("version: %d\ntime_zone: UTC\nmonthly_budget_usd: %s\nproviders:\n  openai:\n    kind: openai-compatible\n    base_url: https://127.0.0.1:%d/v1\n    key: house\n    models: {m: {input: 1, output: 4, context: 200000, max_output: 32000}}\n    ca: |\n",
		h.version+1, budget, h.port)
	for line := range strings.Lines(string(h.provider.RootPEM())) {
		text += "      " + line
	}
	path := filepath.Join(h.home.Root, "cost_control.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	if got := h.raypher("spend", "control", "--key", h.find("operator.key"), path); got.code != 0 {
		h.t.Fatalf("spend control: %+v", got)
	}
}

// ask is a call of a model in a shell, as a client makes it from what its environment says.
const ask = `curl -sS -m 30 -w ' status %{http_code}\n' "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' -d '{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hello"}]}'`

// TestModelsThroughTheGateway: a governed program that knows nothing of Raypher calls a model with what its environment says; the provider sees the real key and
// the program never does; the key of the run is worth nothing in another run or outside.
func TestModelsThroughTheGateway(t *testing.T) {
	h := newHouse(t, "5")
	agent := h.reside(quiet)
	if got := agent.do(ask); !strings.Contains(got, "status 200") || !strings.Contains(got, `"usage"`) {
		t.Fatalf("a call: %s\nfirst lines: %s", got, agent.stderr.String())
	}
	if a := h.provider.Account(); a.Calls != 1 || a.Refused != 0 {
		t.Errorf("the provider counted %+v", a)
	}
	for _, r := range h.provider.Seen() {
		if got := r.Header.Get("Authorization"); got != "Bearer "+h.secret {
			t.Errorf("the provider was shown %q", got)
		}
	}
}
