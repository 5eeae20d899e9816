// Command raypher-controller is the controller of a fleet: it appraises the evidence of enclaves, hands secrets, leases and signed releases
// to those that it found good, and keeps what happened.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	controller "github.com/raypher/raypher/controller/daemon"
)

// version is set by the linker (-X main.version=...).
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:], os.Stderr))
}

// execute runs a command line, says on stderr what went wrong, and returns the exit status.
func execute(ctx context.Context, args []string, stderr io.Writer) int {
	root := command()
	root.SetArgs(args)
	root.SetErr(stderr)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var usage *usageError
	if strings.HasPrefix(err.Error(), "unknown command") { // of which cobra asks nobody
		err = &usageError{c, err}
	}
	fmt.Fprintln(stderr, "raypher-controller:", err)
	if errors.As(err, &usage) {
		return codeUsage
	}
	return 1
}

// codeUsage ends the program where its command line is wrong, as it does raypher.
const codeUsage = 2

// usageError is a mistake in the command line of a command.
type usageError struct {
	command *cobra.Command
	error
}

func (e *usageError) Error() string {
	return e.error.Error() + ": see " + e.command.CommandPath() + " --help"
}

func wrongUsage(c *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return &usageError{c, err}
}

// explainUsage makes what is wrong with a command line a usageError.
func explainUsage(c *cobra.Command) {
	check := c.Args
	c.Args = func(c *cobra.Command, given []string) error { return wrongUsage(c, check(c, given)) }
	c.SetFlagErrorFunc(wrongUsage)
}

func command() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "raypher-controller --operator KEY [flags]",
		Short: "The controller of a fleet of Raypher hosts",
		Long: `The controller of a fleet: it appraises the evidence of enclaves against golden measurements and says what it found in signed
attestation results; hands secrets, leases of credit, ceilings and policies to attested enclaves and their hosts; and keeps an
audit. Callers are known by the SHA-256 of the key in their TLS client certificate.

With a SQLite database, the default, keys that are missing are made at the first start. Replicas share a PostgreSQL database
(--database-url) and the same files for --tls-key, --signing-key and --secrets-key, which have to be there.`,
		Example: `  raypher-controller keygen operator.key
  raypher-controller --operator operator.key.pub --golden-key golden.key.pub --ceiling-key ceiling.key.pub
  raypher-controller --database-url postgres://raypher@db/raypher --operator operator.key.pub ...`,
		Version: version, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			o.Version = version
			o.Log = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			o.Ready = func(_, _ net.Addr) { daemon.SdNotify(false, daemon.SdNotifyReady) }
			return controller.Run(c.Context(), *o)
		},
	}
	f.add(c.Flags())
	c.AddCommand(keygenCommand(), renewCommand())
	explainUsage(c)
	for _, sub := range c.Commands() {
		explainUsage(sub)
	}
	return c
}
