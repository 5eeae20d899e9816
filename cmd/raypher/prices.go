package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
)

// stalePrices is how old a price may be before check says so.
const stalePrices = 90 * 24 * time.Hour

func pricesCommand() *cobra.Command {
	c := &cobra.Command{Use: "prices", Short: "What models cost: the price list that ships, or one of your own"}
	c.AddCommand(pricesListCommand(), pricesCheckCommand(), pricesImportCommand())
	return c
}

func pricesListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "Print the price list that ships, with the source and date of each price",
		Long:  "Print the price list that ships, with the source and date of each price. Prices are US dollars for a million tokens.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := prices.Snapshot(cost.ParseRate)
			switch {
			case err != nil:
				return err
			case asJSON:
				return printPricesJSON(c, list, time.Now())
			}
			return printPrices(c, list)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func pricesCheckCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a price list, the one that ships without FILE, and name prices older than 90 days",
		Long: `Check a price list, the one that ships without FILE, and name prices older than 90 days.

Exit codes: 0 the list is well formed, 1 it is not, 2 wrong usage or a file that cannot be read.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := prices.Snapshot(cost.ParseRate)
			if len(args) == 1 {
				text, unread := readBounded(args[0], prices.MaxList)
				if unread != nil {
					return usageError(fmt.Errorf("prices: %w: name a price list, or - for standard input", unread))
				}
				list, err = prices.Parse(args[0], text, cost.ParseRate)
			}
			switch {
			case err != nil:
				return err
			case asJSON:
				return printPricesJSON(c, list, time.Now())
			}
			return checkPrices(c, list, time.Now())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// printPricesJSON prints amounts as decimal numbers in text: a floating point number would round them.
func printPricesJSON(c *cobra.Command, list *prices.List, now time.Time) error {
	type price struct {
		Provider    string `json:"provider"`
		Model       string `json:"model"`
		Input       string `json:"input_usd"`
		CachedInput string `json:"cached_input_usd,omitempty"`
		Output      string `json:"output_usd"`
		Date        string `json:"date"`
		Old         bool   `json:"old"`
		Source      string `json:"source"`
	}
	all := make([]price, len(list.Models))
	for i, m := range list.Models {
		all[i] = price{
			Provider: m.Provider, Model: m.Name, Input: cost.Amount(m.Input).String(), Output: cost.Amount(m.Output).String(),
			Date: m.Date.Format(time.DateOnly), Old: now.Sub(m.Date) > stalePrices, Source: m.Source,
		}
		if m.CachedInput != nil {
			all[i].CachedInput = cost.Amount(*m.CachedInput).String()
		}
	}
	return printJSON(c.OutOrStdout(), struct {
		Hash   string  `json:"sha256"`
		Prices []price `json:"prices"`
	}{fmt.Sprintf("%x", list.Hash), all})
}

func printPrices(c *cobra.Command, list *prices.List) error {
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PROVIDER\tMODEL\tINPUT\tCACHED\tOUTPUT\tDATE\tSOURCE")
	for _, m := range list.Models {
		cached := "-"
		if m.CachedInput != nil {
			cached = cost.Amount(*m.CachedInput).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Provider, m.Name, cost.Amount(m.Input), cached, cost.Amount(m.Output), m.Date.Format(time.DateOnly), m.Source)
	}
	return w.Flush()
}

// checkPrices says how many prices there are, and which are old: providers change them.
func checkPrices(c *cobra.Command, list *prices.List, now time.Time) error {
	old := 0
	for _, m := range list.Models {
		if now.Sub(m.Date) > stalePrices {
			fmt.Fprintf(c.OutOrStdout(), "old: %s of %s is of %s: compare it with the provider's page\n", m.Name, m.Provider, m.Date.Format(time.DateOnly))
			old++
		}
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%d prices, %d old, sha256:%x\n", len(list.Models), old, list.Hash)
	return err
}
