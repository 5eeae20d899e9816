package main

import (
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cost"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// exportedCall is a call as export prints it, one JSON object a line. Amounts are dollars as texts.
type exportedCall struct {
	ID        string      `json:"id"`
	Began     time.Time   `json:"began"`
	Ended     *time.Time  `json:"ended,omitempty"`
	Namespace string      `json:"namespace"`
	Agent     string      `json:"agent"`
	Run       string      `json:"run"`
	Provider  string      `json:"provider"`
	Model     string      `json:"model"`
	Outcome   string      `json:"outcome"`
	Worst     cost.Amount `json:"worst_usd"`
	Spent     cost.Amount `json:"spent_usd"`
	Tokens    uint64      `json:"tokens"`
	Control   string      `json:"control_hash"`
	Prices    string      `json:"prices_hash"`
	Epoch     string      `json:"epoch"`
	Index     uint64      `json:"index"`
}

func spendExportCommand() *cobra.Command {
	var since string
	var asCSV bool
	c := &cobra.Command{
		Use:   "export",
		Short: "Print each call of a model that is in this host's journal",
		Long: `Print each call of a model that is in this host's journal, one JSON object a line: who called what, what was held, what it came to, and
where the proof of it lies ('raypher evidence'). Calls come in the order of their ends, open ones last.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			request := &parentv1.OperatorExportSpendingRequest{}
			if since != "" {
				at, err := time.Parse(time.RFC3339, since)
				if err != nil {
					return usageError(fmt.Errorf("--since %.40q: write it as 2026-11-30T12:00:00Z", since))
				}
				request.SinceUnixNano = at.UnixNano()
			}
			print := jsonLines(c.OutOrStdout())
			if asCSV {
				print = csvLines(c.OutOrStdout())
			}
			return withOperator(func(operator parentv1.OperatorClient) error {
				stream, err := operator.ExportSpending(c.Context(), request)
				for err == nil {
					var call *parentv1.OperatorCall
					if call, err = stream.Recv(); err == nil {
						err = print(exported(call))
					}
				}
				if errors.Is(err, io.EOF) {
					return print(nil)
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&since, "since", "", "only calls that began at this time or later, RFC 3339")
	c.Flags().BoolVar(&asCSV, "csv", false, "print CSV with a line of names first")
	return c
}

func exported(c *parentv1.OperatorCall) *exportedCall {
	e := &exportedCall{
		ID: hex.EncodeToString(c.GetId()), Began: time.Unix(0, c.GetBeganUnixNano()).UTC(), Namespace: c.GetNamespace(), Agent: c.GetAgent(), Run: c.GetRun(),
		Provider: c.GetProvider(), Model: c.GetModel(), Outcome: c.GetOutcome(), Worst: cost.Amount(c.GetWorst()), Spent: cost.Amount(c.GetSpent()),
		Tokens: c.GetTokens(), Control: "sha256:" + hex.EncodeToString(c.GetControl()), Prices: "sha256:" + hex.EncodeToString(c.GetPrices()),
		Epoch: hex.EncodeToString(c.GetEpoch()), Index: c.GetIndex(),
	}
	if at := c.GetEndedUnixNano(); at != 0 {
		ended := time.Unix(0, at).UTC()
		e.Ended = &ended
	}
	return e
}

// jsonLines prints calls; nil is the end.
func jsonLines(out io.Writer) func(*exportedCall) error {
	encoder := json.NewEncoder(out)
	return func(e *exportedCall) error {
		if e == nil {
			return nil
		}
		return encoder.Encode(e)
	}
}

// csvLines prints calls; nil is the end.
func csvLines(out io.Writer) func(*exportedCall) error {
	table := csv.NewWriter(out)
	_ = table.Write([]string{"id", "began", "ended", "namespace", "agent", "run", "provider", "model", "outcome", "worst_usd", "spent_usd", "tokens", "control_hash", "prices_hash", "epoch", "index"})
	return func(e *exportedCall) error {
		if e == nil {
			table.Flush()
			return table.Error()
		}
		ended := ""
		if e.Ended != nil {
			ended = e.Ended.Format(time.RFC3339Nano)
		}
		return table.Write([]string{
			e.ID, e.Began.Format(time.RFC3339Nano), ended, e.Namespace, e.Agent, e.Run, e.Provider, e.Model, e.Outcome, e.Worst.String(), e.Spent.String(),
			strconv.FormatUint(e.Tokens, 10), e.Control, e.Prices, e.Epoch, strconv.FormatUint(e.Index, 10),
		})
	}
}
