package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
)

// settledSpending waits until nothing is held, and returns what counts as spent.
func (h *house) settledSpending() (spent cost.Amount) {
	h.t.Helper()
	eventually(h.t, "every call is settled", func() bool {
		got := h.raypher("spend", "show", "--json")
		var show struct {
			Accounts []struct {
				Level string `json:"level"`
				Spent string `json:"spent_usd"`
				Held  string `json:"held_usd"`
			} `json:"accounts"`
		}
		if err := json.Unmarshal([]byte(got.stdout), &show); err != nil {
			h.t.Fatalf("spend show: %v: %+v", err, got)
		}
		for _, a := range show.Accounts {
			held, err := cost.ParseAmount(a.Held)
			if err != nil {
				h.t.Fatal(err)
			}
			if a.Level == "host" {
				spent, err = cost.ParseAmount(a.Spent)
				return err == nil && held == 0
			}
		}
		return false
	})
	return spent
}

// callers is a program of node's that calls a model from 200 callers at once, each until the budget is at its end.
const callers = `
const statuses = {};
async function caller() {
  for (;;) {
    const answer = await fetch(process.env.OPENAI_BASE_URL + '/chat/completions', {
      method: 'POST', headers: { authorization: 'Bearer ' + process.env.OPENAI_API_KEY, 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'm', max_tokens: 100, messages: [{ role: 'user', content: 'hello' }] }),
    });
    const text = await answer.text();
    statuses[answer.status] = (statuses[answer.status] ?? 0) + 1;
    if (answer.status !== 200 && answer.status !== 402) console.error(text);
    if (answer.status !== 200) return;
  }
}
Promise.all(Array.from({ length: 200 }, caller)).then(() => console.log(JSON.stringify(statuses)));
`

// TestManyCallersOneBudget: 200 callers at once, over the whole product, and a budget of 5 dollars: the provider never charges more, and
// nearly all of it can be used.
func TestManyCallersOneBudget(t *testing.T) {
	// A hundred and four hundred dollars for a million tokens: a call holds about ten cents, and uses one or less.
	rates := &prices.Rates{Band: prices.Band{Input: 100_000_000, Output: 400_000_000}, Context: 200_000, MaxOutput: 32_000}
	h := newHouseOf(t, "5", rates, map[string]string{"openai": "openai-compatible"})
	if err := os.WriteFile(filepath.Join(h.home.Work, "callers.js"), []byte(callers), 0o644); err != nil {
		t.Fatal(err)
	}
	got := h.run(quiet, "/usr/bin/node", "callers.js")
	var statuses map[string]int
	if err := json.Unmarshal([]byte(got.stdout), &statuses); err != nil || statuses["402"] != 200 || len(statuses) != 2 {
		t.Fatalf("%+v", got)
	}
	account, spent := h.provider.Account(), h.settledSpending()
	if account.Charged > 5_000_000 || account.Charged < 4_750_000 || spent != account.Charged || account.Calls != statuses["200"] {
		t.Errorf("charged %s of 5 dollars for %d calls, %s counts as spent; %v", account.Charged, account.Calls, spent, statuses)
	}
	t.Logf("charged %s of 5 dollars for %d calls of 200 callers", account.Charged, account.Calls)
}

// TestSDKsInRuns: the official SDKs in governed runs, with what their environment says, over the whole product.
func TestSDKsInRuns(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "../../scripts/agents.sh", "sdk").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		t.Skipf("npm cannot be reached, so there are no SDKs to run: %s", exit.Stderr)
	}
	if err != nil {
		t.Fatalf("scripts/agents.sh sdk: %v", err)
	}
	packages := filepath.Join(strings.TrimSpace(string(out)), "sdk")
	h := newHouseOf(t, "5", ratesOfTheHouse, map[string]string{"openai": "openai", "compatible": "openai-compatible", "anthropic": "anthropic", "gemini": "gemini"})
	scripts, err := filepath.Glob("../sdk/*.mjs")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err == nil {
			err = os.WriteFile(filepath.Join(h.home.Work, filepath.Base(script)), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	node := packages + "/node_modules/node/bin/node"
	granted := strings.Replace(strings.Replace(quiet, "read: [", "read: ["+packages+"/**, ", 1), "exec: [", "exec: ["+node+", ", 1)
	for script, cases := range map[string]string{
		"openai.mjs":    "chat stream stream_usage tools image responses responses_stream responses_tools",
		"anthropic.mjs": "messages stream tools runner image count",
		"genai.mjs":     "generate stream tools image count",
	} {
		before := h.provider.Account()
		got := h.run(granted, "/bin/sh", "-c", fmt.Sprintf("PACKAGES=%s GATEWAY=$RAYPHER_GATEWAY HANDLE=$RAYPHER_GATEWAY_KEY exec %s %s %s", packages, node, script, cases))
		if got.code != 0 || strings.Contains(got.stdout, `"error"`) || strings.Count(got.stdout, `"says"`) != len(strings.Fields(cases)) {
			t.Errorf("%s: %+v", script, got)
		}
		if after := h.provider.Account(); after.Calls == before.Calls {
			t.Errorf("%s called nothing", script)
		}
	}
	// Gone in mid-stream: the enclave reads the answer to its end all the same.
	for _, script := range []string{"openai.mjs", "anthropic.mjs"} {
		h.run(granted, "/bin/sh", "-c", fmt.Sprintf("PACKAGES=%s GATEWAY=$RAYPHER_GATEWAY HANDLE=$RAYPHER_GATEWAY_KEY exec %s %s abort", packages, node, script))
	}
	if account, spent := h.provider.Account(), h.settledSpending(); spent != account.Charged || spent == 0 {
		t.Errorf("%s counts as spent, %s was charged for %d calls", spent, account.Charged, account.Calls)
	}
}
