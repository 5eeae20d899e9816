package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/relay"
	"github.com/raypher/raypher/parent/warden"
)

// conversationFD is where `raypher run` leaves the warden's end of their conversation.
const conversationFD = 3

// wardenCommand is what `raypher run` starts beside each agent. Nobody else calls it.
func wardenCommand() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use:    "warden",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if domain, err := unix.GetsockoptInt(conversationFD, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
				return errors.New("warden: this command is for `raypher run`, which starts it")
			}
			if err := warden.Harden(); err != nil {
				return err
			}
			err := warden.Run(context.Background(), warden.Options{
				Runner: warden.Inherited(conversationFD), Connect: warden.Dial(socket), Output: os.Stderr,
				Relay: relay.NewClient(instance.RelayBeside(socket)),
				JSON:  asJSON, Color: term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("NO_COLOR") == "",
			})
			if err != nil {
				return &exitError{code: 1} // the runner, or the person at the terminal, was told
			}
			return nil
		},
	}
	c.Flags().StringVar(&socket, "socket", "", "socket of raypherd")
	c.Flags().BoolVar(&asJSON, "json", false, "print events as JSON")
	return c
}
