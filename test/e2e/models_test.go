package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
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
	secret   string            // the key at the provider
	version  int               // of the cost control
	more     string            // lines of it
	kinds    map[string]string // of providers, all of them this one, by name
	rates    *prices.Rates     // of its models, m and scripted
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

// newHouse starts a provider and a machine whose enclave has a key for it, and a budget of five dollars, of which each run has some.
func newHouse(t testing.TB, run string, flags ...string) *house {
	t.Helper()
	return newHouseOf(t, run, ratesOfTheHouse, map[string]string{"openai": "openai-compatible"}, flags...)
}

// newHouseOf is newHouse with other prices, and the provider under other names.
func newHouseOf(t testing.TB, run string, rates *prices.Rates, kinds map[string]string, flags ...string) *house {
	t.Helper()
	m := newMachine(t, flags...)
	h := &house{machine: m, secret: fmt.Sprintf("sk-real-%x", []byte(t.Name())), kinds: kinds, rates: rates}
	var err error
	h.provider, err = provider.New(provider.Options{
		Key: h.secret, Names: []string{"127.0.0.1"}, Rates: func(model string) (*prices.Rates, bool) { return rates, model == "m" || model == "scripted" },
	})
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
	h.install(run)
	if got := m.finish(context.WithoutCancel(t.Context()), h.secret+"\n", "keys", "add", "house", "--key", m.find("operator.key")); got.code != 0 {
		t.Fatalf("keys add: %+v", got)
	}
	return h
}

// install puts a budget in force, in dollars for each run.
func (h *house) install(run string) {
	h.t.Helper()
	h.version++
	text := fmt.Sprintf("version: %d\ntime_zone: UTC\nmonthly_budget_usd: 5\nper_run: {budget_usd: %s}\nproviders:\n", h.version+1, run)
	for name, kind := range h.kinds {
		base := fmt.Sprintf("https://127.0.0.1:%d", h.port)
		if strings.HasPrefix(kind, "openai") {
			base += "/v1"
		}
		model := fmt.Sprintf("{input: %d, output: %d, context: %d, max_output: %d}", h.rates.Input/1e6, h.rates.Output/1e6, h.rates.Context, h.rates.MaxOutput)
		text += fmt.Sprintf("  %s:\n    kind: %s\n    base_url: %s\n    key: house\n    models: {m: %s, scripted: %s}\n    ca: |\n", name, kind, base, model, model)
		for line := range strings.Lines(string(h.provider.RootPEM())) {
			text += "      " + line
		}
	}
	path := filepath.Join(h.home.Root, "cost_control.yaml")
	if err := os.WriteFile(path, []byte(text+h.more), 0o644); err != nil {
		h.t.Fatal(err)
	}
	if got := h.raypher("spend", "control", "--key", h.find("operator.key"), path); got.code != 0 {
		h.t.Fatalf("spend control: %+v", got)
	}
}

// ask is a call of a model in a shell, as a client makes it from what its environment says.
const ask = `curl -sS -m 30 -w ' status %{http_code}\n' "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' -d '{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hello"}]}'`

// answered says whether a call was.
func answered(out string) bool {
	return strings.Contains(out, " status 200\n") && strings.Contains(out, `"usage"`)
}

// TestModelsThroughTheGateway: a governed program that knows nothing of Raypher calls a model with what its environment says. The provider is shown the key that the
// enclave has, which the program never sees, nor one of its caller's.
func TestModelsThroughTheGateway(t *testing.T) {
	h := newHouse(t, "5")
	agent := h.reside(quiet)
	if got := agent.do(ask); !answered(got) {
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
	// The caller's own key, and what the program has of it.
	cmd := h.command(t.Context(), "run", "--policy", h.policy(quiet), "--", "/bin/sh", "-c", "env; cat /proc/self/environ | tr '\\0' '\\n'")
	cmd.Env = append(cmd.Env, "OPENAI_API_KEY=sk-the-callers", "MISTRAL_API_KEY=sk-the-callers-too", "OPENAI_BASE_URL=https://api.openai.com/v1")
	got := h.wait(cmd)
	if got.code != 0 || strings.Contains(got.stdout, "sk-the-callers") || strings.Contains(got.stdout, h.secret) {
		t.Errorf("the program's environment: %+v", got)
	}
	if !strings.Contains(got.stdout, "OPENAI_API_KEY=sk-raypher-") || !strings.Contains(got.stdout, "OPENAI_BASE_URL=http://127.0.0.1:50052/openai/v1") {
		t.Errorf("the program is not told of the gateway: %s", got.stdout)
	}
	if !strings.Contains(got.stderr, "removed from its environment: MISTRAL_API_KEY, OPENAI_API_KEY") {
		t.Errorf("the first lines do not say what was removed: %s", got.stderr)
	}
	// Nothing else opened with it: not the provider, nor raypherd's other neighbours.
	for _, port := range []int{h.port, 50053} {
		if out := agent.do(fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d' 2>&1", port)); !strings.Contains(out, "Operation not permitted") {
			t.Errorf("port %d: %s", port, out)
		}
	}
}

// TestHandlesAreOfTheirRuns: the key of a run is worth nothing in another run, outside of every run, or when it is another text.
func TestHandlesAreOfTheirRuns(t *testing.T) {
	h := newHouse(t, "5")
	first := h.reside(quiet)
	key, _, _ := strings.Cut(first.do("echo $OPENAI_API_KEY"), "\n")
	if !strings.HasPrefix(key, "sk-raypher-") {
		t.Fatalf("the key of the first run: %q", key)
	}
	for name, c := range map[string]struct{ key, want string }{
		"its own": {key, " status 200"}, "none": {"", " status 401"}, "one that was changed": {key[:len(key)-1] + "x", " status 401"}, "the provider's": {h.secret, " status 401"},
	} {
		if got := first.do("OPENAI_API_KEY=" + c.key + "; " + ask); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := h.run(quiet, "/bin/sh", "-c", "OPENAI_API_KEY="+key+"; "+ask); !strings.Contains(got.stdout, " status 401") {
		t.Errorf("another run's: %+v", got)
	}
	outside := exec.Command("curl", "-sS", "-m", "30", "-w", " status %{http_code}", "http://127.0.0.1:50052/openai/v1/chat/completions", "-H", "Authorization: Bearer "+key, "-d", "{}")
	if got, err := outside.CombinedOutput(); err != nil || !strings.Contains(string(got), "governed agents only") || !strings.Contains(string(got), " status 403") {
		t.Errorf("outside: %s, %v", got, err)
	}
	if a := h.provider.Account(); a.Calls != 1 {
		t.Errorf("the provider counted %+v", a)
	}
}

// TestBudgetRunsOut: a call that the budget does not hold is refused as the provider would refuse it, saying which cap, and goes through when there is more.
func TestBudgetRunsOut(t *testing.T) {
	h := newHouse(t, "0.002") // less than two calls may cost, and more than several do
	agent := h.reside(quiet)
	if got := agent.do(ask); !answered(got) {
		t.Fatalf("the first call: %s", got)
	}
	var got string
	for range 40 {
		if got = agent.do(ask); !answered(got) {
			break
		}
	}
	for _, word := range []string{`"error"`, "insufficient_quota", "run", " status 4"} {
		if !strings.Contains(got, word) {
			t.Errorf("the refusal lacks %s: %s", word, got)
		}
	}
	if a := h.provider.Account(); a.Charged > 2000 {
		t.Errorf("the provider charged %s", a.Charged)
	}
	h.install("1")
	if got := agent.do(ask); !answered(got) {
		t.Errorf("after there was more: %s", got)
	}
}

// TestModelsAfterDeaths: raypherd or the enclave dies without a word. Agents go on calling models when it is back, with the same key, and what was spent is not forgotten.
func TestModelsAfterDeaths(t *testing.T) {
	h := newHouse(t, "5")
	agent := h.reside(quiet)
	if got := agent.do(ask); !answered(got) {
		t.Fatalf("a call: %s", got)
	}
	h.pair.KillParent()
	if got := agent.do(ask); answered(got) {
		t.Error("a call without raypherd was answered")
	}
	if err := h.pair.RestartParent(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, h.pair.Log())
	}
	eventually(t, "the agent calls models again after raypherd died", func() bool { return answered(agent.do(ask)) })
	h.pair.KillEnclave()
	if got := agent.do(ask); answered(got) || !strings.Contains(got, " status 503") {
		t.Errorf("a call without the enclave: %s", got)
	}
	if err := h.pair.RestartEnclave(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, h.pair.Log())
	}
	eventually(t, "the agent calls models again after the enclave died", func() bool { return answered(agent.do(ask)) })
	spent := h.raypher("spend", "show", "--json")
	if want := fmt.Sprintf("%d", h.provider.Account().Charged); spent.code != 0 || !strings.Contains(spent.stdout, want) {
		t.Errorf("the provider charged %s micro-dollars: %+v", want, spent)
	}
}

// TestModelsOfAnIsolatedAgent: an agent in a network namespace of its own finds the gateway on its own loopback.
func TestModelsOfAnIsolatedAgent(t *testing.T) {
	h := newHouse(t, "5")
	got := h.run(strings.Replace(quiet, "network:\n", "network:\n  isolate: true\n", 1), "/bin/sh", "-c", ask+"; ls /proc/self/ns/net -l")
	if !strings.Contains(got.stdout, " status 200\n") {
		t.Errorf("%+v", got)
	}
	if a := h.provider.Account(); a.Calls != 1 {
		t.Errorf("the provider counted %+v", a)
	}
}
