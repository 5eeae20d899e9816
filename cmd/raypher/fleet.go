package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/controller/connection"
	"github.com/raypher/raypher/controller/peer"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// fleetTimeout bounds the calls of one command.
const fleetTimeout = 30 * time.Second

// Environment variables that stand for the flags of every fleet command.
const (
	controllerVariable    = "RAYPHER_CONTROLLER"
	controllerKeyVariable = "RAYPHER_CONTROLLER_KEY"
	operatorKeyVariable   = "RAYPHER_OPERATOR_KEY"
)

// fleetFlags name the controller and who asks it.
type fleetFlags struct{ address, controllerKey, key string }

func fleetCommand() *cobra.Command {
	var f fleetFlags
	c := &cobra.Command{
		Use:   "fleet",
		Short: "Ask and operate the controller of a fleet",
		Long: `Asks and operates the controller of a fleet, as one of its operators: the holder of a key that the controller was started with (--operator).
The controller is known by its key, which it prints at its start.

$RAYPHER_CONTROLLER, $RAYPHER_CONTROLLER_KEY and $RAYPHER_OPERATOR_KEY stand for the three flags.`,
		Example: `  raypher-controller keygen operator.key      # prints the hash for the controller's --operator
  export RAYPHER_CONTROLLER=controller:7443 RAYPHER_CONTROLLER_KEY=sha256:... RAYPHER_OPERATOR_KEY=operator.key
  raypher fleet add rack-7 --tier tpm --caller-key sha256:...
  raypher fleet measurements fleet.golden
  raypher fleet status`,
	}
	c.PersistentFlags().StringVar(&f.address, "controller", os.Getenv(controllerVariable), "host:port of the controller")
	c.PersistentFlags().StringVar(&f.controllerKey, "controller-key", os.Getenv(controllerKeyVariable), "sha256:HEX of the controller's TLS key, as it prints at its start")
	c.PersistentFlags().StringVar(&f.key, "key", os.Getenv(operatorKeyVariable), "file of the operator's key (raypher-controller keygen)")
	c.AddCommand(fleetStatusCommand(f.with), fleetAddCommand(f.with), fleetRemoveCommand(f.with), fleetMeasurementsCommand(f.with), fleetAuditCommand(f.with), fleetSecretCommand(f.with), fleetReleaseCommand(f.with))
	return c
}

// with makes calls to the controller that the flags name.
func (f *fleetFlags) with(c *cobra.Command, call func(grpc.ClientConnInterface) error) error {
	for _, missing := range []struct{ value, flag, variable, next string }{
		{f.address, "--controller", controllerVariable, "host:port of the controller"},
		{f.controllerKey, "--controller-key", controllerKeyVariable, "sha256:HEX, the line `controller_key` that the controller prints at its start"},
		{f.key, "--key", operatorKeyVariable, "make a key with `raypher-controller keygen FILE` and start the controller with --operator FILE.pub"},
	} {
		if missing.value == "" {
			return usageError(fmt.Errorf("%s is missing (or $%s): %s", missing.flag, missing.variable, missing.next))
		}
	}
	if _, _, err := startconf.SplitAddress(f.address); err != nil {
		return usageError(fmt.Errorf("--controller %.80q: %w: use host:port, as controller.example.org:7443", f.address, err))
	}
	pinned, err := startconf.ParseKeyHash(f.controllerKey)
	if err != nil {
		return usageError(fmt.Errorf("--controller-key: %w", err))
	}
	key, _, err := peer.OpenKey(f.key, false)
	if err != nil {
		return usageError(fmt.Errorf("--key: %w", err))
	}
	certificate, _, err := peer.Certificate(key, "raypher operator")
	if err != nil {
		return err
	}
	conn, err := connection.Open(f.address, pinned, certificate)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(c.Context(), fleetTimeout)
	defer cancel()
	return f.explain(call(bounded{conn, ctx}))
}

// bounded is a connection whose calls end with a context, whatever context they are made with.
type bounded struct {
	grpc.ClientConnInterface
	ctx context.Context
}

func (b bounded) Invoke(_ context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return b.ClientConnInterface.Invoke(b.ctx, method, args, reply, opts...)
}

// explain adds the next step to what a call ended with.
func (f *fleetFlags) explain(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable:
		if strings.Contains(s.Message(), startconf.ErrController.Error()) {
			return fmt.Errorf("%s: %s: compare --controller-key with the line that the controller prints at its start", f.address, plainly(s.Message()))
		}
		return fmt.Errorf("the controller at %s does not answer: %s: is it running, and is --controller right?", f.address, plainly(s.Message()))
	case codes.Unimplemented, codes.Unknown:
		if strings.Contains(s.Message(), "HTTP status code") { // no gRPC is spoken there
			return fmt.Errorf("%s does not speak gRPC: give --controller the port of the controller's --listen, by default 7443, and not that of --listen-http", f.address)
		}
	case codes.DeadlineExceeded:
		return fmt.Errorf("the controller at %s has not answered within %s", f.address, fleetTimeout)
	}
	return errors.New(s.Message())
}

func fleetStatusCommand(with withController) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "List the hosts: what their evidence said last, and what they report", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return with(c, func(conn grpc.ClientConnInterface) error {
				hosts, err := allHosts(c.Context(), conn)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), jsonOf(hosts, hostLine))
				}
				return printHosts(c.OutOrStdout(), hosts, time.Now())
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, with everything that is known")
	return c
}

// allHosts asks for one page after the other.
func allHosts(ctx context.Context, conn grpc.ClientConnInterface) (hosts []*controllerv1.Host, err error) {
	for request := (&controllerv1.HostsRequest{}); ; {
		reply, err := controllerv1.NewFleetClient(conn).Hosts(ctx, request)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, reply.GetHosts()...)
		if request.After = reply.GetNext(); request.After == "" {
			return hosts, nil
		}
	}
}

func printHosts(out io.Writer, hosts []*controllerv1.Host, now time.Time) error {
	if len(hosts) == 0 {
		_, err := fmt.Fprintln(out, "no hosts: `raypher fleet add` names the first")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tTIER\tVERDICT\tATTESTED\tRESULT\tMEASUREMENTS\tCEILING\tSEEN\tAGENTS\tVERSION")
	for _, h := range hosts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", h.GetName(), h.GetTier(), h.GetVerdict(), ago(h.GetAttestedUnix(), now),
			until(h.GetResultExpiresUnix(), now), dash(h.GetMeasurements()), versionOrDash(h.GetCeilingVersion()), ago(h.GetSeenUnix(), now), h.GetAgents(), dash(h.GetVersion()))
	}
	return w.Flush()
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func versionOrDash(v uint64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprint(v)
}

func ago(unix int64, now time.Time) string {
	if unix == 0 {
		return "never"
	}
	return now.Sub(time.Unix(unix, 0)).Truncate(time.Second).String() + " ago"
}

func until(unix int64, now time.Time) string {
	left := time.Unix(unix, 0).Sub(now).Truncate(time.Second)
	switch {
	case unix == 0:
		return "none"
	case left <= 0:
		return "ended"
	}
	return "for " + left.String()
}

func fleetAddCommand(with withController) *cobra.Command {
	var request controllerv1.AddHostRequest
	c := &cobra.Command{
		Use: "add NAME", Short: "Name a host, or with --reset forget the machine that it is bound to", Args: cobra.ExactArgs(1),
		Long: `Names a host before its first attestation. The first good evidence binds it: of tier tpm to that TPM. Evidence of another one is refused until
--reset. The caller key is that of its raypherd ('raypherd --caller-key' prints it), which the start configuration of its enclave
names too.`,
		Example: "  raypher fleet add rack-7 --tier tpm --caller-key sha256:...",
		RunE: func(c *cobra.Command, args []string) error {
			return with(c, func(conn grpc.ClientConnInterface) error {
				request.Name = args[0]
				h, err := controllerv1.NewFleetClient(conn).AddHost(c.Context(), &request)
				if err != nil {
					return err
				}
				bound := "bound by its first good evidence"
				if h.GetIdentity() != "" {
					bound = "bound to " + h.GetIdentity()
				}
				fmt.Fprintf(c.OutOrStdout(), "%s: tier %s, %s\n", h.GetName(), h.GetTier(), bound)
				return nil
			})
		},
	}
	c.Flags().StringVar(&request.Tier, "tier", "", "where its enclave's key lies: nitro or tpm; software where the controller takes it")
	c.Flags().StringVar(&request.CallerKey, "caller-key", "", "sha256:HEX of the key of its raypherd")
	c.Flags().BoolVar(&request.Reset_, "reset", false, "the host exists: forget its machine, and take this tier and key")
	c.MarkFlagRequired("tier")
	c.MarkFlagRequired("caller-key")
	return c
}

func fleetRemoveCommand(with withController) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Take a host out of the fleet: its enclave gets nothing more from this controller", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return with(c, func(conn grpc.ClientConnInterface) error {
				if _, err := controllerv1.NewFleetClient(conn).RemoveHost(c.Context(), &controllerv1.RemoveHostRequest{Name: args[0]}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s removed; what it was given before, it has: rotate the secrets that it had\n", args[0])
				return err
			})
		},
	}
}

func fleetMeasurementsCommand(with withController) *cobra.Command {
	return &cobra.Command{
		Use: "measurements FILE", Short: "Put signed golden measurements in force", Args: cobra.ExactArgs(1),
		Long: `Puts a list of golden measurements in force, which 'raypher attest golden sign' has signed with a golden key of the controller. Versions only
go upwards. From then on evidence has to match it.`,
		RunE: func(c *cobra.Command, args []string) error {
			list, err := readBounded(args[0], golden.MaxFile)
			if err != nil {
				return usageError(err)
			}
			return with(c, func(conn grpc.ClientConnInterface) error {
				reply, err := controllerv1.NewFleetClient(conn).PutMeasurements(c.Context(), &controllerv1.PutMeasurementsRequest{List: list})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "version %d is in force\n", reply.GetVersion())
				return err
			})
		},
	}
}

func fleetAuditCommand(with withController) *cobra.Command {
	var request controllerv1.AuditRequest
	var asJSON bool
	c := &cobra.Command{
		Use: "audit", Short: "What the controller did for whom, oldest first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return with(c, func(conn grpc.ClientConnInterface) error {
				reply, err := controllerv1.NewFleetClient(conn).Audit(c.Context(), &request)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), jsonOf(reply.GetEntries(), entryLine))
				}
				w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "NUMBER\tTIME\tACTION\tSUBJECT\tOUTCOME\tBY")
				for _, e := range reply.GetEntries() {
					fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", e.GetNumber(), time.UnixMilli(e.GetTimeUnixMs()).UTC().Format(time.RFC3339), e.GetAction(), dash(e.GetSubject()), e.GetOutcome(), e.GetActor())
				}
				return w.Flush()
			})
		},
	}
	c.Flags().Uint64Var(&request.From, "from", 0, "number of the first entry")
	c.Flags().Uint32Var(&request.Limit, "limit", 0, "how many, at most and by default 1000")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
