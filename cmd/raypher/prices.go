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
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "Print the price list that ships, with the source and date of each price", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				list, err := prices.Snapshot(cost.ParseRate)
				if err != nil {
					return err
				}
				return printPrices(c, list)
			},
		},
		&cobra.Command{
			Use: "check [FILE]", Short: "Check a price list, the one that ships without FILE, and name prices older than 90 days", Args: cobra.MaximumNArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				list, err := prices.Snapshot(cost.ParseRate)
				if len(args) == 1 {
					var text []byte
					if text, err = readBounded(args[0], prices.MaxList); err == nil {
						list, err = prices.Parse(args[0], text, cost.ParseRate)
					}
				}
				if err != nil {
					return err
				}
				return checkPrices(c, list, time.Now())
			},
		},
	)
	return c
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
