// Package sdk runs the official SDKs of OpenAI, Anthropic and Google, as npm has them, against the enclave's gateway before a provider
// that charges: what they send is understood, what they are told is an error of their own kind, and what is spent is what is charged.
package sdk

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/test/metered"
	"github.com/raypher/raypher/test/provider"
)

// installed is the folder of the SDKs and their node.
func installed(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../../scripts/agents.sh", "sdk").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		t.Skipf("npm cannot be reached, so there are no SDKs to run: %s", exit.Stderr)
	}
	if err != nil {
		t.Fatalf("scripts/agents.sh sdk: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "sdk")
}

// outcome is what an SDK made of a case: what it gave its caller, or its error.
type outcome struct {
	Case    string          `json:"case"`
	Says    json.RawMessage `json:"says"`
	Error   string          `json:"error"` // name of its class
	Status  int             `json:"status"`
	Message string          `json:"message"`
	Code    any             `json:"code"`
	Type    any             `json:"type"`
}

// play runs cases of a script against a gateway.
func play(t *testing.T, folder, script string, w *metered.World, cases ...string) map[string]outcome {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(folder, "node_modules/node/bin/node"), append([]string{script}, cases...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "PACKAGES=" + folder, "GATEWAY=" + w.URL, "HANDLE=" + metered.Handle}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", script, err, out.Bytes(), errs.Bytes())
	}
	outcomes := make(map[string]outcome)
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var o outcome
		if err := decoder.Decode(&o); err != nil {
			t.Fatal(err)
		}
		outcomes[o.Case] = o
	}
	return outcomes
}

// priced has one model.
var priced = provider.Options{Rates: func(model string) (*prices.Rates, bool) { return metered.Rates, model == "scripted" }}

// What the SDKs are made for works, and costs what the provider charges.
func TestCalls(t *testing.T) {
	folder := installed(t)
	const tool, pixel = `"the tool said sky is blue"`, `"you said what is this"`
	scripts := map[string]map[string]string{ // what each case gives its caller
		"openai.mjs": {
			"chat": `"you said hello"`, "developer": `"you said hello"`, "elsewhere": `"you said hello"`, "stream": `{"text":"you said hello there","usages":0}`,
			"stream_usage": `{"text":"you said hello there","tokens":true}`, "late": `"you said hello !late"`, "helper": `"you said hello there"`,
			"tools": tool, "tools_stream": tool, "schema": `"you said hello"`, "image": pixel, "choices": `1`,
			"responses": `"you said hello"`, "responses_stream": `"you said hello there"`, "responses_helper": `"you said hello there"`,
			"responses_tools": tool, "responses_image": pixel, "responses_previous": `"you said and now"`, "models": `0`, "agreeable": `"you said hello"`,
		},
		"anthropic.mjs": {
			"messages": `"you said hello"`, "stream": `"you said hello there"`, "late": `"you said hello !late"`, "helper": `"you said hello there"`,
			"tools": tool, "runner": tool, "image": pixel, "cache": `"you said hello"`, "thinking": `"you said hello"`, "beta": `"you said hello"`,
			"count": `true`, "models": `0`, "bearer": `"you said hello"`,
		},
		"genai.mjs": {
			"generate": `"you said hello"`, "configured": `"you said hello"`, "stream": `"you said hello there"`, "late": `"you said hello !late"`,
			"tools": `"the tool said {\"is\":\"sky is blue\"}"`, "image": pixel, "count": `true`,
		},
	}
	for script, cases := range scripts {
		t.Run(strings.TrimSuffix(script, ".mjs"), func(t *testing.T) {
			t.Parallel()
			w := metered.Open(t, metered.Options{Provider: priced})
			outcomes := play(t, folder, script, w, slices.Sorted(maps.Keys(cases))...)
			for name, want := range cases {
				if o := outcomes[name]; string(o.Says) != want {
					t.Errorf("%s: %s, expected %s (%s %d %s)", name, o.Says, want, o.Error, o.Status, o.Message)
				}
			}
			w.Agree()
		})
	}
}

// What goes wrong is an error of the SDK's own kind, with words that a person understands; and what was charged counts.
func TestErrors(t *testing.T) {
	folder := installed(t)
	type failure struct {
		class  string
		status int
		says   string
	}
	const handle, price, tool, endpoint = "raypher run", "has no price", "runs at the provider", "is not an endpoint"
	scripts := map[string]map[string]failure{
		"openai.mjs": {
			"timeout": {"APIConnectionTimeoutError", 0, ""}, "limits": {"RateLimitError", 429, "told to refuse"}, "refuses": {"BadRequestError", 400, "told to refuse"},
			"fails": {"InternalServerError", 500, "told to fail"}, "breaks": {"", 0, ""}, "breaks_stream": {"", 0, ""},
			"key": {"AuthenticationError", 401, handle}, "model": {"NotFoundError", 404, price}, "search": {"BadRequestError", 400, tool}, "embeddings": {"NotFoundError", 404, endpoint},
		},
		"anthropic.mjs": {
			"limits": {"RateLimitError", 429, "told to refuse"}, "overload": {"OverloadedError", 529, "told to refuse"}, "fails": {"InternalServerError", 500, "told to fail"},
			"breaks_stream": {"", 0, ""}, "key": {"AuthenticationError", 401, handle}, "model": {"NotFoundError", 404, price}, "search": {"BadRequestError", 400, tool}, "batches": {"NotFoundError", 404, endpoint},
		},
		"genai.mjs": {
			"limits": {"ApiError", 429, "told to refuse"}, "fails": {"ApiError", 500, "told to fail"}, "key": {"ApiError", 401, handle},
			"model": {"ApiError", 404, price}, "search": {"ApiError", 400, tool}, "embed": {"ApiError", 404, endpoint},
		},
	}
	for script, cases := range scripts {
		t.Run(strings.TrimSuffix(script, ".mjs"), func(t *testing.T) {
			t.Parallel()
			w := metered.Open(t, metered.Options{Provider: priced})
			outcomes := play(t, folder, script, w, append(slices.Sorted(maps.Keys(cases)), "abort", "silent")...)
			for name, want := range cases {
				o := outcomes[name]
				if o.Error == "" || want.class != "" && o.Error != want.class || o.Status != want.status || !strings.Contains(o.Message, want.says) {
					t.Errorf("%s: %s %d %s %s, expected %s %d with %q", name, o.Error, o.Status, o.Message, o.Says, want.class, want.status, want.says)
				}
			}
			if spent, account := w.Spent(), w.Provider.Account(); spent < account.Charged {
				t.Errorf("%s counts as spent, %s was charged for %d calls", spent, account.Charged, account.Calls)
			}
		})
	}
}

// A client that goes away in mid-stream has spent what the provider charges, neither more nor less.
func TestAborts(t *testing.T) {
	folder := installed(t)
	for _, script := range []string{"openai.mjs", "anthropic.mjs", "genai.mjs"} {
		t.Run(strings.TrimSuffix(script, ".mjs"), func(t *testing.T) {
			t.Parallel()
			w := metered.Open(t, metered.Options{Provider: priced})
			if o := play(t, folder, script, w, "abort")["abort"]; o.Error != "" || !strings.HasPrefix(string(o.Says), `"you`) {
				t.Errorf("%+v", o)
			}
			w.Agree()
		})
	}
}

// A budget at its end is one error, at once and not after retries, that says what is spent.
func TestExhausted(t *testing.T) {
	folder := installed(t)
	for script, c := range map[string]struct {
		class string
		cases []string
	}{
		"openai.mjs":    {"APIError", []string{"exhausted", "exhausted_stream"}},
		"anthropic.mjs": {"PaymentRequiredError", []string{"exhausted", "exhausted_stream"}},
		"genai.mjs":     {"ApiError", []string{"exhausted"}},
	} {
		for _, name := range c.cases {
			t.Run(strings.TrimSuffix(script, ".mjs")+", "+name, func(t *testing.T) {
				t.Parallel()
				w := metered.Open(t, metered.Options{Budget: "0.01", Provider: priced})
				o := play(t, folder, script, w, name)[name]
				if o.Error != c.class || o.Status != 402 || !strings.Contains(o.Message, "raypher: ") || !strings.Contains(o.Message, "0.01") {
					t.Errorf("%+v", o)
				}
				w.Agree()
				account := w.Provider.Account()
				if account.Charged > 10_000 || account.Calls == 0 || account.Requests != account.Calls {
					t.Errorf("%+v", account)
				}
			})
		}
	}
}

// A rate at its end is the error for which SDKs wait.
func TestRates(t *testing.T) {
	folder := installed(t)
	for _, script := range []string{"openai.mjs", "anthropic.mjs"} {
		t.Run(strings.TrimSuffix(script, ".mjs"), func(t *testing.T) {
			t.Parallel()
			w := metered.Open(t, metered.Options{Control: "requests_per_minute: 3\n", Provider: priced})
			if o := play(t, folder, script, w, "rate")["rate"]; o.Error != "RateLimitError" || o.Status != 429 || !strings.Contains(o.Message, "3") {
				t.Errorf("%+v", o)
			}
			if n := w.Provider.Account().Calls; n != 3 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// Each script's cases are all played by a test.
func TestEveryCaseIsPlayed(t *testing.T) {
	text, err := os.ReadFile("sdk_test.go")
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("*.mjs")
	if err != nil || len(scripts) != 4 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		source, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		_, cases, _ := strings.Cut(string(source), "await play({\n")
		for line := range strings.Lines(cases) {
			name, _, isCase := strings.Cut(line, ": async () =>")
			if isCase && strings.HasPrefix(name, "  ") && !strings.HasPrefix(name, "   ") && !bytes.Contains(text, []byte(`"`+strings.TrimSpace(name)+`"`)) {
				t.Errorf("%s: %s is in no table", script, strings.TrimSpace(name))
			}
		}
	}
}
