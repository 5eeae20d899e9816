// Command raypher-controller is the controller of a fleet: it appraises the evidence of enclaves, hands secrets, leases and signed releases
// to those that it found good, and keeps what happened.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cmd/internal/usage"
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
	err = usage.OfCobra(c, err)
	fmt.Fprintln(stderr, "raypher-controller:", err)
	return usage.ExitCode(err)
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
	usage.Explain(c)
	return c
}
