package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cost"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func spendShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show",
		Short: "What was spent this month, what is held, what is available, and where the month is going",
		Long: `Show what counts against each cap, as the enclave has it, and beside it, as this host's journal has it, what each agent spent on which
model on which day. SPENT is what was charged, with all that was held for calls of which nobody knows what they cost; HELD is of calls under way; LOST
is credit of which nobody can say what became of it, as of the lease that was open at a restart, and counts as spent; PROJECTED is what the month
comes to if it goes on as it did. The tokens of a call of which nobody knows what it used are not in TOKENS. The budget of a run that ended before
the enclave's last start is not known.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(func(operator parentv1.OperatorClient) error {
				s, err := operator.DescribeSpending(c.Context(), &parentv1.OperatorDescribeSpendingRequest{Lines: true})
				if err != nil {
					return err
				}
				shown, err := spendingShown(s, time.Now())
				if err != nil {
					return err
				}
				if asJSON {
					encoder := json.NewEncoder(c.OutOrStdout())
					encoder.SetIndent("", "  ")
					return encoder.Encode(shown)
				}
				return shown.print(c.OutOrStdout())
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// spendingView is what show prints. Amounts are dollars as texts: no reader makes a floating point number of them.
type spendingView struct {
	Month          string         `json:"month,omitempty"`
	ControlVersion uint64         `json:"control_version,omitempty"`
	ControlHash    string         `json:"control_hash,omitempty"`
	Development    bool           `json:"development,omitempty"`
	Problem        string         `json:"problem,omitempty"` // why nothing can be spent
	CreditLeft     cost.Amount    `json:"credit_left_usd"`
	Unaccounted    cost.Amount    `json:"unaccounted_usd"`
	Paused         uint32         `json:"paused_calls"`
	Accounts       []spentAccount `json:"accounts"`
	LeftOff        uint32         `json:"accounts_left_off,omitempty"`
	Lines          []spentLine    `json:"lines"`
}

type spentAccount struct {
	Level     string       `json:"level"`
	Name      string       `json:"name"`
	Spent     cost.Amount  `json:"spent_usd"`
	Held      cost.Amount  `json:"held_usd"`
	Lost      cost.Amount  `json:"lost_usd"`
	Budget    *cost.Amount `json:"budget_usd,omitempty"`
	Available *cost.Amount `json:"available_usd,omitempty"`
	Projected *cost.Amount `json:"projected_usd,omitempty"`
	Requests  uint64       `json:"requests_last_minute"`
	Tokens    uint64       `json:"tokens_last_day"`
	Closed    bool         `json:"closed,omitempty"`
}

type spentLine struct {
	Day       string      `json:"day"`
	Namespace string      `json:"namespace"`
	Agent     string      `json:"agent"`
	Provider  string      `json:"provider"`
	Model     string      `json:"model"`
	Calls     uint64      `json:"calls"`
	Spent     cost.Amount `json:"spent_usd"`
	Held      cost.Amount `json:"held_usd"`
	Tokens    uint64      `json:"tokens"`
}

func spendingShown(s *parentv1.OperatorSpending, now time.Time) (*spendingView, error) {
	v := &spendingView{
		Month: s.GetPeriod(), Development: s.GetDevelopment(), Problem: s.GetMissing(), Unaccounted: cost.Amount(s.GetUnaccounted()), Paused: s.GetPaused(),
		CreditLeft: cost.Amount(s.GetGrant().GetOpen() + s.GetGrant().GetLeft()), LeftOff: s.GetLeftOff(), Accounts: []spentAccount{}, Lines: []spentLine{},
	}
	var begin, end time.Time
	if len(s.GetControl()) > 0 {
		control, _, err := cost.Read(s.GetControl())
		if err != nil {
			return nil, fmt.Errorf("the enclave's cost control: %w", err)
		}
		v.ControlVersion, v.ControlHash = control.Version, fmt.Sprintf("sha256:%x", control.Hash())
		begin, end, _ = control.Month(s.GetPeriod()) // none: nothing is projected
	}
	switch {
	case s.GetUnread():
		v.Problem = "the enclave does not know yet what was spent before: it is being shown the journal"
		if s.GetReplayError() != "" {
			v.Problem = "the enclave does not know what was spent before: " + s.GetReplayError()
		}
	case v.Problem == "" && s.GetGrant().GetClosed() != "":
		v.Problem = s.GetGrant().GetClosed()
		if s.GetDevelopment() && len(s.GetGrant().GetGrant()) == 0 {
			v.Problem = "" // the first call makes one
		}
	}
	for _, a := range s.GetAccounts() {
		shown := spentAccount{
			Level: a.GetLevel(), Name: a.GetName(), Spent: cost.Amount(a.GetSpent()), Held: cost.Amount(a.GetHeld()), Lost: cost.Amount(a.GetLost()),
			Budget: (*cost.Amount)(a.Budget), Requests: a.GetRequests(), Tokens: a.GetTokens(), Closed: a.GetClosed(),
		}
		if a.Budget != nil {
			left := available(a, s.GetUnaccounted())
			shown.Available = &left
		}
		if a.GetLevel() != "run" {
			shown.Projected = projected(shown.Spent, begin, end, now)
		}
		v.Accounts = append(v.Accounts, shown)
	}
	for _, l := range s.GetLines() {
		v.Lines = append(v.Lines, spentLine{
			Day: l.GetDay(), Namespace: l.GetNamespace(), Agent: l.GetAgent(), Provider: l.GetProvider(), Model: l.GetModel(),
			Calls: l.GetCalls(), Spent: cost.Amount(l.GetSpent()), Held: cost.Amount(l.GetHeld()), Tokens: l.GetTokens(),
		})
	}
	return v, nil
}

// projected is what a month comes to if it goes on as it did; nil: now is not in it. In whole seconds, and rounded down: it is a guess.
func projected(spent cost.Amount, begin, end, now time.Time) *cost.Amount {
	passed, all := int64(now.Sub(begin)/time.Second), int64(end.Sub(begin)/time.Second)
	if begin.IsZero() || passed <= 0 || passed > all {
		return nil
	}
	guess := spent/cost.Amount(passed)*cost.Amount(all) + spent%cost.Amount(passed)*cost.Amount(all)/cost.Amount(passed)
	return &guess
}

func (v *spendingView) print(out io.Writer) error {
	if v.ControlVersion > 0 {
		fmt.Fprintf(out, "month %s, cost control version %d\n", or(v.Month, "not begun"), v.ControlVersion)
	}
	if v.Development {
		fmt.Fprintln(out, "development: the enclave signs grants and cost controls for whoever asks, and counts in a file: no protection")
	}
	if v.Problem != "" {
		fmt.Fprintln(out, "nothing can be spent:", v.Problem)
	}
	if v.Development && v.Month == "" {
		fmt.Fprintln(out, "no credit yet: the first call makes the grant of this month")
	} else {
		fmt.Fprintf(out, "credit left %s\n", v.CreditLeft)
	}
	if v.Unaccounted > 0 {
		fmt.Fprintf(out, "unaccounted %s: leases of which the journal says nothing count against every cap\n", v.Unaccounted)
	}
	if v.Paused > 0 {
		fmt.Fprintf(out, "calls that wait for a top-up: %d\n", v.Paused)
	}
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nCAP\tNAME\tSPENT\tHELD\tLOST\tBUDGET\tAVAILABLE\tPROJECTED\tNOTE")
	for _, a := range v.Accounts {
		note := ""
		if a.Closed {
			note = "closed: a provider charged more than a call could cost"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.Level, or(a.Name, "-"), a.Spent, a.Held, a.Lost, dollars(a.Budget), dollars(a.Available), dollars(a.Projected), note)
	}
	if v.LeftOff > 0 {
		fmt.Fprintf(table, "\t%d more that spent less\n", v.LeftOff)
	}
	if len(v.Lines) > 0 {
		fmt.Fprintln(table, "\nDAY\tAGENT\tPROVIDER\tMODEL\tCALLS\tSPENT\tHELD\tTOKENS")
		for _, l := range v.Lines {
			fmt.Fprintf(table, "%s\t%s/%s\t%s\t%s\t%d\t%s\t%s\t%d\n", l.Day, l.Namespace, l.Agent, l.Provider, l.Model, l.Calls, l.Spent, l.Held, l.Tokens)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return printTrimmed(out, text.String())
}

// printTrimmed prints a table without the spaces that its last column leaves where it is empty.
func printTrimmed(out io.Writer, table string) error {
	for line := range strings.Lines(table) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func dollars(a *cost.Amount) string {
	if a == nil {
		return "-"
	}
	return a.String()
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
