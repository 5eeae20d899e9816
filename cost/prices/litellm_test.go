package prices_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
)

// sample is in LiteLLM's format; its numbers are made up.
const sample = `{
 "sample_spec": {"max_tokens": "LEGACY parameter", "litellm_provider": "one of https://docs.litellm.ai/docs/providers", "mode": "one of: chat"},
 "gpt-x": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 1.25e-07,
   "input_cost_per_token_above_272k_tokens": 2.5e-06, "output_cost_per_token_above_272k_tokens": 1.5e-05, "input_cost_per_token_batches": 6.25e-07, "output_cost_per_token_batches": 5e-06,
   "max_input_tokens": 272000, "max_output_tokens": 128000, "supports_vision": true, "input_cost_per_token_priority": 2.5e-06},
 "claude-x": {"litellm_provider": "anthropic", "mode": "chat", "input_cost_per_token": 3e-06, "output_cost_per_token": 0.000015, "cache_creation_input_token_cost": 3.75e-06,
   "cache_creation_input_token_cost_above_1hr": 6e-06, "cache_creation_input_token_cost_above_200k_tokens": 7.5e-06, "source": "https://claude.com/pricing"},
 "gemini/gemini-x": {"litellm_provider": "gemini", "mode": "chat", "input_cost_per_token": 1e-07, "output_cost_per_token": 4e-07, "output_cost_per_reasoning_token": 3.5e-06},
 "gemini-x": {"litellm_provider": "vertex_ai-language-models", "mode": "chat", "input_cost_per_token": 1, "output_cost_per_token": 1},
 "fine": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1.0000000000001e-06, "output_cost_per_token": 0},
 "gpt-audio": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "input_cost_per_audio_token": 1e-05},
 "half": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06},
 "below": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": -1e-06, "output_cost_per_token": 1e-06},
 "words": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": "cheap", "output_cost_per_token": 1e-06},
 "much": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 2, "output_cost_per_token": 1e-06},
 "eu/gpt-x": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 9e-06, "output_cost_per_token": 9e-06},
 "dall-e": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06}
}`

func TestFromLiteLLM(t *testing.T) {
	models, skipped, err := prices.FromLiteLLM([]byte(sample), "https://example.com/list.json", time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	dollars := func(n uint64) string { return cost.Amount(n).String() }
	var got []string
	for _, m := range models {
		got = append(got, fmt.Sprintf("%s %s: %s", m.Provider, m.Name, m.Words(dollars)))
	}
	want := []string{
		"anthropic claude-x: input: 3.00, cache_write: 3.75, cache_write_1h: 6.00, output: 15.00, tiers: [{above: 200000, input: 3.00, cache_write: 7.50, output: 15.00}]",
		"gemini gemini-x: input: 0.10, output: 0.40, reasoning: 3.50",
		"openai fine: input: 1.000001, output: 0.00", // rounded up
		"openai gpt-x: input: 1.25, cached_input: 0.125, output: 10.00, batch: {input: 0.625, output: 5.00}, tiers: [{above: 272000, input: 2.50, output: 15.00}], context: 400000, max_output: 128000",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(models) == 4 && (models[0].Source != "https://claude.com/pricing" || models[3].Source != "https://example.com/list.json") {
		t.Errorf("sources: %s, %s", models[0].Source, models[3].Source)
	}
	for i, reason := range []string{"input_cost_per_token: -1e-06", "input_cost_per_audio_token is more", "no price of input or output", "more than any price", "no number"} {
		if i >= len(skipped) || !strings.Contains(skipped[i].Reason, reason) {
			t.Errorf("left out: %v, want %q at %d", skipped, reason, i)
		}
	}
	list, err := prices.Parse("f", prices.Format(models, dollars), cost.ParseRate)
	if err != nil || len(list.Models) != 4 {
		t.Fatalf("what was made cannot be read: %v", err)
	}
	for i := range models {
		if a, b := models[i].Words(dollars), list.Models[i].Words(dollars); a != b {
			t.Errorf("%s, read again %s", a, b)
		}
	}
}

func FuzzFromLiteLLM(f *testing.F) {
	f.Add([]byte(sample))
	f.Fuzz(func(t *testing.T, data []byte) {
		models, _, err := prices.FromLiteLLM(data, "https://x/", time.Unix(0, 0))
		if err != nil {
			return
		}
		for _, m := range models {
			if m.Worst(1000, 1000) < m.Cost(prices.Usage{Input: 1000, Output: 1000}) {
				t.Errorf("%+v", m)
			}
		}
	})
}
