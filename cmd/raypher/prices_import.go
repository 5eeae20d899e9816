package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
)

// litellmSource is where LiteLLM keeps its list.
const litellmSource = "https://github.com/BerriAI/litellm/blob/main/model_prices_and_context_window.json"

func pricesImportCommand() *cobra.Command {
	var date, source, out string
	c := &cobra.Command{
		Use:   "import FILE|- --date DAY",
		Short: "Make a price list, to be reviewed, of a file in LiteLLM's format, and show how it differs from the one that ships",
		Long: `Make a price list, to be reviewed, of a file in LiteLLM's format (model_prices_and_context_window.json), and show how it differs from the one that
ships. Nothing is downloaded, and nothing comes into force: what you believe goes under models of a provider in cost_control.yaml, which you sign.

Models of OpenAI, Anthropic and Gemini are taken over. One of which a rate that can apply is not known is left out, and the reason is shown. The differences
go to standard error.`,
		Example: `  raypher prices import model_prices_and_context_window.json --date 2026-11-20 -o prices.yaml
  raypher prices check prices.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			day, err := time.Parse(time.DateOnly, date)
			if err != nil {
				return usageError(fmt.Errorf("--date %.40q: write the day of the file, like 2026-11-20", date))
			}
			text, err := readBounded(args[0], prices.MaxLiteLLM)
			if err != nil {
				return usageError(fmt.Errorf("prices: %w", err))
			}
			models, skipped, err := prices.FromLiteLLM(text, source, day)
			if err != nil {
				return err
			}
			shipped, err := prices.Snapshot(cost.ParseRate)
			if err != nil {
				return err
			}
			sayDifferences(c.ErrOrStderr(), shipped, models, skipped)
			list := prices.Format(models, dollarsOf)
			if _, err := prices.Parse("what was made", list, cost.ParseRate); err != nil {
				return err
			}
			if out == "-" {
				_, err = c.OutOrStdout().Write(list)
				return err
			}
			return os.WriteFile(out, list, 0o644)
		},
	}
	c.Flags().StringVar(&date, "date", "", "the day that the file is of, like 2026-11-20")
	c.Flags().StringVar(&source, "source", litellmSource, "https `URL` where the file is from, for entries that name none")
	c.Flags().StringVarP(&out, "out", "o", "-", "file for the list; -: standard output")
	c.MarkFlagRequired("date")
	return c
}

func dollarsOf(micro uint64) string { return cost.Amount(micro).String() }

// sayDifferences shows what is new, what costs something else, what is not there any more, and what was left out.
func sayDifferences(said io.Writer, shipped *prices.List, models []prices.Model, skipped []prices.Skipped) {
	there := map[[2]string]bool{}
	for i := range models {
		m := &models[i]
		there[[2]string{m.Provider, m.Name}] = true
		old, err := shipped.Find(m.Provider, m.Name)
		switch now := m.Words(dollarsOf); {
		case err != nil:
			fmt.Fprintf(said, "new: %s %s: %s\n", m.Provider, m.Name, now)
		case old.Words(dollarsOf) != now:
			fmt.Fprintf(said, "differs: %s %s\n  ships:  %s\n  import: %s\n", m.Provider, m.Name, old.Words(dollarsOf), now)
		}
	}
	for _, s := range skipped {
		fmt.Fprintf(said, "left out: %s: %s\n", s.Name, s.Reason)
	}
	for i := range shipped.Models {
		if m := &shipped.Models[i]; !there[[2]string{m.Provider, m.Name}] {
			fmt.Fprintf(said, "only ships: %s %s\n", m.Provider, m.Name)
		}
	}
	fmt.Fprintf(said, "%d models, %d left out\n", len(models), len(skipped))
}
