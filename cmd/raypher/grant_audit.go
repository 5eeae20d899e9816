package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
)

func grantAuditCommand() *cobra.Command {
	var journals journalFlags
	var keys []string
	c := &cobra.Command{
		Use:   "audit",
		Short: "Add up the leases in the journals, and refuse those that no single enclave can have written",
		Long: `Every lease is in the journal before it can be spent, so what a journal holds bounds what was spent. A lease that stands
twice, a counter that went back, or credit without an operator's grant shows a journal that was set back or copied.
The heads are verified by "raypher evidence verify".`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var trusted [][]byte
			for _, name := range keys {
				der, err := readOperatorKey(name)
				if err != nil {
					return fmt.Errorf("--operator-key %s: %w", name, err)
				}
				trusted = append(trusted, der)
			}
			stores, err := journals.open()
			if err != nil {
				return err
			}
			for _, store := range stores {
				defer store.Close()
			}
			for _, store := range stores {
				if err := auditLeases(c.OutOrStdout(), store, trusted); err != nil {
					return err
				}
			}
			return nil
		},
	}
	journals.add(c.Flags())
	c.Flags().StringArrayVar(&keys, "operator-key", nil, "operator key that signed the grants: the .pub file of keygen, or the base64 of its operator_key line (may be repeated)")
	c.MarkFlagRequired("operator-key")
	return c
}

// auditLeases folds the leases of one journal and says what they add up to, for each grant.
func auditLeases(out io.Writer, store storedJournal, operatorKeys [][]byte) error {
	fold := lease.NewFold(operatorKeys)
	summary := func() {
		if g := fold.Grant(); g != nil {
			fmt.Fprintf(out, "%s: grant version %d, %s in %s: %s handed out in leases, %d taken, %s left\n",
				store.dir, g.Version, amount(g.Cap, g.Unit), g.Period, amount(fold.Handed(), g.Unit), fold.Taken(), amount(fold.Left(), g.Unit))
		}
	}
	for record, err := range store.Entries(audit.Filter{Types: []journal.Type{journal.TypeLease}}) {
		if err != nil {
			return err
		}
		l, err := journal.DecodeLease(record.Entry.Payload)
		if err == nil && fold.Grant() != nil && l.Number == 0 && l.Grant != fold.Grant().Hash {
			summary()
		}
		if err == nil {
			err = fold.Apply(l)
		}
		if err != nil {
			return fmt.Errorf("%s: entry %.8s:%d: %w", store.dir, record.Epoch, record.Index, err)
		}
	}
	if fold.Grant() == nil {
		fmt.Fprintf(out, "%s: no leases\n", store.dir)
	}
	summary()
	return nil
}
