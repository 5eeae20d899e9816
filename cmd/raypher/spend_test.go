package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/ceiling"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

const exampleControl = "{version: 3, time_zone: Europe/Berlin, monthly_budget_usd: 100, namespaces: {dev: {monthly_budget_usd: 40}}}"

// A cost control goes to the enclave as it is, signed by a key, or signed before; a mistake is said with its place.
func TestControlFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("cost_control.yaml", []byte(exampleControl))
	key, err := newOperatorKey(false)
	if err != nil {
		t.Fatal(err)
	}
	text, err := ceiling.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ceiling.PublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := write("operator.key", text)
	var complaints bytes.Buffer
	request, parsed, err := controlFile(&complaints, plain, "")
	if err != nil || request.Signed != nil || string(request.Source) != exampleControl || parsed.Version != 3 {
		t.Errorf("%v, %v", request, err)
	}
	request, _, err = controlFile(&complaints, plain, keyFile)
	if err != nil || request.Source != nil {
		t.Fatalf("%v, %v", request, err)
	}
	if c, err := cost.Open(request.Signed, [][]byte{der}); err != nil || c.Version != 3 {
		t.Errorf("%v, %v", c, err)
	}
	again, parsed, err := controlFile(&complaints, write("signed", request.Signed), "")
	if err != nil || !bytes.Equal(again.Signed, request.Signed) || parsed.Version != 3 {
		t.Errorf("%v, %v", again, err)
	}
	if _, _, err := controlFile(&complaints, write("bad.yaml", []byte("{version: 3, time_zone: Mars, monthly_budget_usd: 1}")), ""); err == nil || !strings.Contains(complaints.String(), "bad.yaml:1:") {
		t.Errorf("%v, %s", err, complaints.String())
	}
}

func spendingExample(t *testing.T) *parentv1.OperatorSpending {
	t.Helper()
	c, err := cost.Parse("x", []byte(exampleControl))
	if err != nil {
		t.Fatal(err)
	}
	key, err := newOperatorKey(false)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := c.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	amount := func(n uint64) *uint64 { return &n }
	return &parentv1.OperatorSpending{
		Control: signed, Period: "2026-11", Unaccounted: 1_000_000, Paused: 2, LeftOff: 3, Grant: &parentv1.OperatorGrantStatus{Open: 500_000, Left: 60_000_000},
		Accounts: []*parentv1.OperatorSpendingAccount{
			{Level: "host", Spent: 10_000_000, Held: 2_000_000, Lost: 1_000_000, Budget: amount(100_000_000)},
			{Level: "namespace", Name: "dev", Spent: 38_000_000, Held: 2_000_000, Budget: amount(40_000_000)},
			{Level: "agent", Name: "dev/coder", Spent: 5, Closed: true},
		},
		Lines: []*parentv1.OperatorSpendingLine{{Day: "2026-11-10", Namespace: "dev", Agent: "coder", Provider: "openai", Model: "m", Calls: 4, Spent: 5, Tokens: 9}},
	}
}

// What is available takes in what is held, lost and unaccounted; the projection is the month's length over what passed of it, in the zone of the
// file.
func TestSpendShow(t *testing.T) {
	third := time.Date(2026, 11, 10, 23, 0, 0, 0, time.UTC) // a third of November in Berlin, where it begins an hour earlier
	v, err := spendingShown(spendingExample(t), third)
	if err != nil {
		t.Fatal(err)
	}
	host, dev := v.Accounts[0], v.Accounts[1]
	if host.Available.String() != "87.00" || host.Projected.String() != "30.00" || dev.Available.String() != "0.00" || v.CreditLeft.String() != "60.50" || v.Problem != "" {
		t.Errorf("%+v", v)
	}
	var out bytes.Buffer
	if err := v.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"month 2026-11, cost control version 3", "credit left 60.50", "unaccounted 1.00", "calls that wait for a top-up: 2", "3 more that spent less",
		"10.00     2.00  1.00  100.00  87.00", "closed: a provider charged more", "2026-11-10", "dev/coder",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasSuffix(line, " \n") {
			t.Errorf("spaces at the end of %q", line)
		}
	}
	text, err := json.Marshal(v)
	if err != nil || !strings.Contains(string(text), `"available_usd":"87.00"`) {
		t.Errorf("%s, %v", text, err)
	}
	for name, c := range map[string]struct {
		change func(*parentv1.OperatorSpending)
		want   string
	}{
		"no control": {func(s *parentv1.OperatorSpending) { s.Control, s.Missing = nil, "no cost control" }, "no cost control"},
		"unread":     {func(s *parentv1.OperatorSpending) { s.Unread = true }, "does not know yet"},
		"refused":    {func(s *parentv1.OperatorSpending) { s.Unread, s.ReplayError = true, "entry 7" }, "entry 7"},
		"no credit":  {func(s *parentv1.OperatorSpending) { s.Grant.Closed = "the month is over" }, "the month is over"},
	} {
		s := spendingExample(t)
		c.change(s)
		if v, err := spendingShown(s, third); err != nil || !strings.Contains(v.Problem, c.want) {
			t.Errorf("%s: %q, %v", name, v.Problem, err)
		}
	}
}

// Keys that a cost control names and nobody gave are named, each once.
func TestMissingKeys(t *testing.T) {
	c := &cost.Control{
		Providers: map[string]cost.Provider{"a": {Key: "openai"}, "b": {Key: "openai"}, "c": {Key: "held"}, "d": {}},
		Alerts:    []cost.Alert{{Secret: "hook"}, {}},
	}
	held := &parentv1.OperatorProviderKeys{Keys: []*parentv1.OperatorProviderKey{{Name: "held"}, {Name: "other"}}}
	if got := strings.Join(missingKeys(c, held), " "); got != "hook openai" {
		t.Error(got)
	}
}

// After a top-up it is said what bounds the rest: the budget, or the credit.
func TestAfterTopUp(t *testing.T) {
	s := spendingExample(t)
	var out bytes.Buffer
	if err := afterTopUp(&out, s); err != nil || !strings.Contains(out.String(), "can spend 60.50 dollars more this month: the grant's credit bounds it") {
		t.Errorf("%s, %v", out.String(), err)
	}
	s.Grant.Left = 600_000_000
	out.Reset()
	if err := afterTopUp(&out, s); err != nil || !strings.Contains(out.String(), "can spend 87.00 dollars more this month: the host's budget bounds it") || !strings.Contains(out.String(), "2 calls waited") {
		t.Errorf("%s, %v", out.String(), err)
	}
}

// Each call is a line, in JSON or CSV.
func TestSpendExport(t *testing.T) {
	call := exported(&parentv1.OperatorCall{
		Id: []byte{1, 2}, BeganUnixNano: 1e9, EndedUnixNano: 2e9, Namespace: "dev", Agent: "coder", Run: "r", Provider: "openai", Model: "m", Worst: 500_000,
		Outcome: "settled", Spent: 125, Tokens: 7, Epoch: []byte{9}, Index: 4,
	})
	var lines, table bytes.Buffer
	for _, print := range []func(*exportedCall) error{jsonLines(&lines), csvLines(&table)} {
		for _, c := range []*exportedCall{call, nil} {
			if err := print(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := lines.String(); !strings.Contains(got, `"began":"1970-01-01T00:00:01Z","ended":"1970-01-01T00:00:02Z"`) || !strings.Contains(got, `"spent_usd":"0.000125"`) || strings.Count(got, "\n") != 1 {
		t.Error(got)
	}
	if got := table.String(); !strings.Contains(got, "\n0102,1970-01-01T00:00:01Z,1970-01-01T00:00:02Z,dev,coder,r,openai,m,settled,0.50,0.000125,7,") || strings.Count(got, "\n") != 2 {
		t.Error(got)
	}
}
