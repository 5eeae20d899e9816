package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cmd/internal/start"
)

// wardenCommand is what `raypher run` starts beside each agent. Nobody else calls it.
func wardenCommand() *cobra.Command {
	var f start.WardenFlags
	c := &cobra.Command{
		Use:    "warden",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			err := start.Warden(f)
			if errors.Is(err, start.ErrTold) {
				return &exitError{code: 1}
			}
			return err
		},
	}
	f.Define(c.Flags())
	return c
}
