package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	controller "github.com/raypher/raypher/controller/daemon"
	"github.com/raypher/raypher/controller/lease"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/store"
)

func keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make a P-256 key: an operator's, or one of --tls-key and --signing-key",
		Long: `Makes a key of ECDSA on P-256: FILE, which only its owner can read, and its public half FILE.pub; and prints the SHA-256 of the public
key, by which it is known. A file that is there already stays, and its hash is printed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			key, _, err := peer.OpenKey(args[0], true)
			if err != nil {
				return err
			}
			_, hash, err := peer.Certificate(key, "raypher")
			if err != nil {
				return err
			}
			der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
			if err != nil {
				return err
			}
			if err := os.WriteFile(args[0]+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), hash)
			return nil
		},
	}
}

func renewCommand() *cobra.Command {
	var database, state string
	c := &cobra.Command{
		Use:   "renew-identity",
		Short: "After a database was put back from a backup: make every lease counter another one",
		Long: `A database that was put back to an older state has counters of leases that are too low: what was spent since then could be spent again. This
gives the database another identity, so that no grant of credit counts on it before its operator has signed it anew.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if database == "" {
				database = filepath.Join(state, controller.DatabaseFile)
				if _, err := os.Stat(database); err != nil {
					return fmt.Errorf("--state: %w", err)
				}
			}
			db, err := store.Open(c.Context(), database)
			if err != nil {
				return err
			}
			defer db.Close()
			if err := lease.Renew(c.Context(), db, "controller"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "the database has another identity: sign the grants of its hosts anew")
			return nil
		},
	}
	c.Flags().StringVar(&database, "database-url", "", "as of raypher-controller")
	c.Flags().StringVar(&state, "state", defaultState, "as of raypher-controller")
	return c
}
