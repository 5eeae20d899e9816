package cost

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

func TestAmounts(t *testing.T) {
	for text, want := range map[string]Amount{
		"0": 0, "2.50": 2_500_000, "0.000001": 1, "12": 12_000_000, "0012.5": 12_500_000, "9007199254.740992": MaxAmount,
	} {
		if got, err := ParseAmount(text); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, bad := range []string{"", ".", "1.", ".5", "-1", "+1", "1e3", "1_000", "0x10", "1,5", " 1", "0.0000001", "9007199254.740993", "99999999999999999999", "∞", "1.5.2"} {
		if got, err := ParseAmount(bad); err == nil {
			t.Errorf("%q is read as %d", bad, got)
		}
	}
	for a, want := range map[Amount]string{0: "0.00", 1: "0.000001", 2_500_000: "2.50", 125_000: "0.125"} {
		if got := a.String(); got != want {
			t.Errorf("%d is written %s, want %s", a, got, want)
		}
	}
}

func load(t *testing.T, name string) *Control {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(name, text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLimits(t *testing.T) {
	c := load(t, "full.yaml")
	for _, want := range []struct {
		namespace, agent string
		budgets          [4]string // host, namespace, agent, run; "": none
	}{
		{"dev", "coder", [4]string{"500.00", "100.00", "40.00", "2.50"}},
		{"dev", "other", [4]string{"500.00", "100.00", "10.00", "5.00"}},
		{"ops", "coder", [4]string{"500.00", "20.00", "", "5.00"}},
	} {
		limits := c.Limits(want.namespace, want.agent)
		for level, budget := range want.budgets {
			got := ""
			if b := limits[level].Budget; b != nil {
				got = b.String()
			}
			if got != budget {
				t.Errorf("%s/%s level %d: %q, want %q", want.namespace, want.agent, level, got, budget)
			}
		}
	}
	if b := load(t, "least.yaml").Limits("a", "b"); b[0].Budget.String() != "20.00" || b[1].Budget != nil || b[3].Budget != nil {
		t.Errorf("%+v", b)
	}
}

// TestMonths: the month is that of the zone, with its changes of the clock.
func TestMonths(t *testing.T) {
	c := load(t, "full.yaml")
	begin, end, err := c.Month("2026-03")
	if err != nil || end.Sub(begin) != 31*24*time.Hour-time.Hour || begin.UTC().Format(time.RFC3339) != "2026-02-28T23:00:00Z" {
		t.Errorf("%s to %s, %v", begin, end, err)
	}
	if got := c.MonthOf(time.Date(2026, 2, 28, 23, 30, 0, 0, time.UTC)); got != "2026-03" {
		t.Error(got)
	}
}

const head = "version: 1\ntime_zone: UTC\nmonthly_budget_usd: 100\n"

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // line:column, words and fix, one of each mistake
	}{
		{"nothing", "", []string{"1:1: empty cost control"}},
		{"missing", "version: 1", []string{"time_zone", "monthly_budget_usd"}},
		{"no version", "time_zone: UTC\nmonthly_budget_usd: 1", []string{"version"}},
		{"all at once", "version: 0\ntime_zone: Mars/Base\nmonthly_budget_usd: -3\nbudget: 3\non_exhausted: refus",
			[]string{"version 0", `2:12: unknown time zone "Mars/Base": write a name of the IANA list`, `3:21: amount "-3"`, `4:1: unknown key "budget"`, `5:15: "refus": did you mean refuse?`}},
		{"local zone", "version: 1\ntime_zone: Local\nmonthly_budget_usd: 1", []string{"unknown time zone"}},
		{"twice", head + "version: 2", []string{`4:1: key "version" stands twice`}},
		{"fine amounts", "version: 1\ntime_zone: UTC\nmonthly_budget_usd: 0.0000001", []string{"at most 6 decimals"}},
		{"floating amounts", "version: 1\ntime_zone: UTC\nmonthly_budget_usd: 1e3", []string{`amount "1e3"`}},
		{"amount of a list", "version: 1\ntime_zone: UTC\nmonthly_budget_usd: [1]", []string{"a list where an amount is wanted"}},
		{"wider namespace", head + "namespaces: {dev: {monthly_budget_usd: 100.000001}}", []string{"is more than the host's 100.00: use at most 100.00"}},
		{"wider agent", head + "namespaces:\n  dev:\n    monthly_budget_usd: 10\n    agents: {coder: {monthly_budget_usd: 11}}", []string{"7:42: 11.00 is more than its namespace's 10.00"}},
		{"wider run", head + "per_run: {budget_usd: 101}", []string{"101.00 is more than the host's 100.00"}},
		{"run above its agent", head + "namespaces: {dev: {agents: {coder: {monthly_budget_usd: 2, per_run: {budget_usd: 3}}}}}", []string{"3.00 is more than its agent's 2.00"}},
		{"run above every run", head + "per_run: {budget_usd: 1}\nnamespaces: {dev: {per_run: {budget_usd: 2}}}", []string{"2.00 is more than every run's 1.00"}},
		{"faster namespace", head + "requests_per_minute: 5\nnamespaces: {dev: {requests_per_minute: 6}}", []string{"6 is more than the host's 5"}},
		{"name", head + "namespaces: {\"a b\": {}}", []string{`name "a b"`}},
		{"alert", head + "alerts: [{at: 80, webhook: \"http://x\"}]", []string{`"80": write a share`, `"http://x": write https://`}},
		{"alert alone", head + "alerts: [{at: 80%}]", []string{"at or webhook is missing"}},
		{"provider", head + "providers: {openai: {kind: openai}}", []string{"kind, base_url or key is missing"}},
		{"provider in the clear", head + "providers: {x: {kind: openai, base_url: \"http://x\", key: k}}", []string{"write https://"}},
		{"provider with a password", head + "providers: {x: {kind: openai, base_url: \"https://a:b@x\", key: k}}", []string{"without a user"}},
		{"unknown prices", head + "providers: {x: {kind: openai-compatible, base_url: \"https://x\", key: k}}", []string{"models is missing"}},
		{"no authority", head + "providers: {x: {kind: openai, base_url: \"https://x\", key: k, ca: \"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\"}}", []string{"these are no certificates"}},
		{"a word for an authority", head + "providers: {x: {kind: openai, base_url: \"https://x\", key: k, ca: mine}}", []string{"these are no certificates"}},
		{"half a price", head + "providers: {x: {kind: openai, base_url: \"https://x\", key: k, models: {m: {input: 1}}}}", []string{"output is missing"}},
		{"tiers", head + "providers: {x: {kind: openai, base_url: \"https://x\", key: k, models: {m: {input: 1, output: 1, tiers: [{above: 5, input: 1, output: 1}, {above: 5, input: 1, output: 1}]}}}}", []string{"above: 5 after 5"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", []byte(c.text))
			var all Errors
			if !errors.As(err, &all) {
				t.Fatalf("%v", err)
			}
			if len(all) != len(c.want) {
				t.Errorf("%d mistakes, want %d:\n%v", len(all), len(c.want), err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in\n%v", want, err)
				}
			}
		})
	}
}

func TestCanonical(t *testing.T) {
	c := load(t, "full.yaml")
	again, err := ParseCanonical(c.Canonical())
	if err != nil || again.Hash() != c.Hash() || !bytes.Equal(again.Canonical(), c.Canonical()) {
		t.Fatalf("%v\n%s", err, c.Canonical())
	}
	text, _ := os.ReadFile("testdata/full.yaml")
	for name, change := range map[string][2]string{
		"budget": {"monthly_budget_usd: 500", "monthly_budget_usd: 500.000001"}, "zone": {"Berlin", "Paris"}, "alert": {"80%", "81%"},
		"price": {"0.125", "0.126"}, "tier": {"200000", "200001"}, "key": {"key: house", "key: home"}, "batch": {"0.625", "0.626"},
		"version": {"version: 3", "version: 4"}, "exhausted": {"refuse", "pause"}, "agent": {"coder", "coders"}, "run": {"2.50}}", "2.51}}"},
	} {
		changed := strings.Replace(string(text), change[0], change[1], 1)
		other, err := Parse("f", []byte(changed))
		if err != nil || other.Hash() == c.Hash() {
			t.Errorf("%s: %v, the hash stays", name, err)
		}
	}
	layout := strings.ReplaceAll(string(text), "100", "100.0") + "# a comment\n"
	if same, err := Parse("f", []byte(layout)); err != nil || same.Hash() != c.Hash() {
		t.Errorf("layout changes the hash: %v", err)
	}
	if _, err := ParseCanonical(text); err == nil {
		t.Error("another form passes for canonical")
	}
}

func TestSigned(t *testing.T) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	c := load(t, "full.yaml")
	signed, err := c.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Open(signed, [][]byte{der}); err != nil || got.Hash() != c.Hash() {
		t.Error(err)
	}
	if _, err := Open(signed, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("without a key: %v", err)
	}
	bent := bytes.Replace(signed, []byte(`500.00`), []byte(`900.00`), 1)
	if _, err := Open(bent, [][]byte{der}); !errors.Is(err, ErrSignature) {
		t.Errorf("another budget: %v", err)
	}
}

// TestSchema validates examples and mistakes with an independent implementation of JSON Schema.
func TestSchema(t *testing.T) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("cost.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("cost.json")
	if err != nil {
		t.Fatal(err)
	}
	valid := func(text []byte) error {
		var value any
		if err := yaml.Unmarshal(text, &value); err != nil {
			t.Fatal(err)
		}
		return compiled.Validate(value)
	}
	for _, name := range []string{"full.yaml", "least.yaml"} {
		text, _ := os.ReadFile(filepath.Join("testdata", name))
		for _, form := range [][]byte{text, load(t, name).Canonical()} {
			if err := valid(form); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, bad := range []string{
		"version: 1", head + "budget: 1", head + "on_exhausted: wait", head + "per_run: {monthly_budget_usd: 1}", head + "alerts: [{at: 0%, webhook: \"https://x\"}]",
		head + "alerts: [{at: 80%}]", head + "providers: {x: {kind: mistral, base_url: \"https://x\", key: k}}", head + "requests_per_minute: many",
		head + "providers: {x: {kind: openai, base_url: \"https://x\", key: k, models: {m: {input: 1}}}}",
	} {
		if valid([]byte(bad)) == nil {
			t.Errorf("the schema accepts %s", bad)
		}
		if _, err := Parse("bad", []byte(bad)); err == nil {
			t.Errorf("Parse accepts %s", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"full.yaml", "least.yaml"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f", text)
		if err != nil {
			return
		}
		again, err := ParseCanonical(c.Canonical())
		if err != nil || again.Hash() != c.Hash() {
			t.Errorf("%q: canonical form %s: %v", text, c.Canonical(), err)
		}
	})
}
