package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
)

// withController makes calls to the controller that the flags of `raypher fleet` name. Its errors say what to do.
type withController func(c *cobra.Command, call func(grpc.ClientConnInterface) error) error

func fleetSecretCommand(with withController) *cobra.Command {
	c := &cobra.Command{
		Use:   "secret",
		Short: "Give credentials to attested enclaves, rotate them, take them away",
		Long: `Give credentials to attested enclaves, rotate them, take them away. A value is read from a file or from standard input, and no command shows
one. Enclaves get what their host is granted after their next attestation or within their polling interval.`,
		Example: `  raypher fleet secret put llm/key --hosts 'build-*' --file key.txt
  pass show llm | raypher fleet secret rotate llm/key
  raypher fleet secret list
  raypher fleet secret delete llm/key`,
	}
	c.AddCommand(fleetSecretPutCommand(with), fleetSecretRotateCommand(with), fleetSecretListCommand(with), fleetSecretDeleteCommand(with))
	return c
}

// secretFlags are what an operator says of a value.
type secretFlags struct {
	file         string
	exact        bool
	hosts, tiers []string
	lifetime     time.Duration
	asJSON       bool
}

// add defines the flags. hosts and tiers say what holds where they are not given.
func (f *secretFlags) add(c *cobra.Command, hosts, tiers string) {
	c.Flags().StringVar(&f.file, "file", "-", "file with the value; -: standard input")
	c.Flags().BoolVar(&f.exact, "exact", false, "keep a newline at the end of the value, which is dropped otherwise")
	c.Flags().StringArrayVar(&f.hosts, "hosts", nil, "pattern of the hosts that get it, * and ? (may be repeated"+hosts+")")
	c.Flags().StringSliceVar(&f.tiers, "tiers", nil, "tiers whose enclaves get it: nitro, tpm, software (default"+tiers+")")
	c.Flags().DurationVar(&f.lifetime, "for", 0, "how long enclaves may use this version; 0: without end")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
}

func fleetSecretPutCommand(with withController) *cobra.Command {
	var f secretFlags
	c := &cobra.Command{
		Use:     "put NAME --hosts PATTERN",
		Short:   "Make a secret, or give a new version of one to other hosts",
		Example: "  raypher fleet secret put llm/key --hosts 'build-*' --hosts ci --file key.txt",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return f.put(c, with, args[0]) },
	}
	f.add(c, "", " nitro,tpm")
	c.MarkFlagRequired("hosts")
	return c
}

func fleetSecretRotateCommand(with withController) *cobra.Command {
	var f secretFlags
	c := &cobra.Command{
		Use:     "rotate NAME",
		Short:   "Give a secret a new value, for the hosts that have the one before",
		Example: "  pass show llm | raypher fleet secret rotate llm/key",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return f.put(c, with, args[0]) },
	}
	f.add(c, "; default: as before", ": as before")
	return c
}

func (f *secretFlags) put(c *cobra.Command, with withController, name string) error {
	if f.lifetime < 0 {
		return usageError(fmt.Errorf("--for %s: use a duration from 1s, or 0 for no end", f.lifetime))
	}
	value, err := f.value(c.InOrStdin(), c.ErrOrStderr())
	if err != nil {
		return usageError(fmt.Errorf("value of %s: %w", name, err))
	}
	defer clear(value)
	request := &controllerv1.PutSecretRequest{Name: name, Value: value, Hosts: f.hosts, Tiers: f.tiers}
	if f.lifetime > 0 {
		request.ExpiresUnix = time.Now().Add(f.lifetime).Unix()
	}
	return with(c, func(conn grpc.ClientConnInterface) error {
		state, err := controllerv1.NewSecretsClient(conn).Put(c.Context(), request)
		if err != nil {
			return err
		}
		if f.asJSON {
			return printJSON(c.OutOrStdout(), secretLine(state))
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s version %d, %d bytes, for %s of tier %s\n", state.GetName(), state.GetVersion(), len(value),
			strings.Join(state.GetHosts(), " "), strings.Join(state.GetTiers(), ", "))
		return err
	})
}

// errNoValue: what was to be a secret is empty.
var errNoValue = errors.New("it is empty: give it with --file or on standard input")

// value reads a value: from a terminal without showing it.
func (f *secretFlags) value(in io.Reader, said io.Writer) (value []byte, err error) {
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	switch terminal, isFile := in.(*os.File); {
	case isFile && term.IsTerminal(int(terminal.Fd())):
		fmt.Fprint(said, "value: ")
		value, err = term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(said)
	default:
		value, err = io.ReadAll(io.LimitReader(in, recipient.MaxValue+2))
	}
	if err != nil {
		return nil, err
	}
	if !f.exact {
		value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
	}
	switch {
	case len(value) == 0:
		return nil, errNoValue
	case len(value) > recipient.MaxValue:
		return nil, fmt.Errorf("more than %d bytes", recipient.MaxValue)
	}
	return value, nil
}

// secretJSON is a secret as --json prints it.
type secretJSON struct {
	Name    string            `json:"name"`
	Version uint64            `json:"version"`
	Hosts   []string          `json:"hosts"`
	Tiers   []string          `json:"tiers"`
	Put     time.Time         `json:"put"`
	Ends    *time.Time        `json:"ends,omitempty"`
	Held    map[string]uint64 `json:"held"` // host -> version
}

func secretLine(s *controllerv1.SecretState) secretJSON {
	line := secretJSON{
		Name: s.GetName(), Version: s.GetVersion(), Hosts: s.GetHosts(), Tiers: s.GetTiers(), Put: time.Unix(s.GetPutUnix(), 0).UTC(), Held: s.GetHeld(),
	}
	if line.Held == nil {
		line.Held = map[string]uint64{}
	}
	line.Ends = timeOf(s.GetExpiresUnix())
	return line
}

func fleetSecretListCommand(with withController) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "Show which secrets exist, and which hosts said that they have which version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return with(c, func(conn grpc.ClientConnInterface) error {
				var secrets []*controllerv1.SecretState
				for request := (&controllerv1.ListSecretsRequest{}); ; {
					reply, err := controllerv1.NewSecretsClient(conn).List(c.Context(), request)
					if err != nil {
						return err
					}
					secrets = append(secrets, reply.GetSecrets()...)
					if request.After = reply.GetNext(); request.After == "" {
						break
					}
				}
				lines := jsonOf(secrets, secretLine)
				if asJSON {
					return printJSON(c.OutOrStdout(), lines)
				}
				return printSecrets(c.OutOrStdout(), lines)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printSecrets(out io.Writer, lines []secretJSON) error {
	if len(lines) == 0 {
		_, err := fmt.Fprintln(out, "no secrets: raypher fleet secret put makes one")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tVERSION\tHOSTS\tTIERS\tPUT\tENDS\tHELD BY")
	for _, s := range lines {
		ends := "never"
		if s.Ends != nil {
			ends = s.Ends.Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Version, strings.Join(s.Hosts, " "), strings.Join(s.Tiers, " "), s.Put.Format(time.RFC3339), ends, s.heldBy())
	}
	return table.Flush()
}

// heldBy names the hosts, with the version where it is not the newest.
func (s *secretJSON) heldBy() string {
	var hosts []string
	for host, version := range s.Held {
		if version != s.Version {
			host += fmt.Sprintf(" (version %d)", version)
		}
		hosts = append(hosts, host)
	}
	if len(hosts) == 0 {
		return "nobody yet"
	}
	slices.Sort(hosts)
	const shown = 5
	if len(hosts) > shown {
		hosts = append(hosts[:shown], fmt.Sprintf("and %d more", len(hosts)-shown))
	}
	return strings.Join(hosts, ", ")
}

func fleetSecretDeleteCommand(with withController) *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Take a secret away: enclaves forget it when they ask next",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return with(c, func(conn grpc.ClientConnInterface) error {
				if _, err := controllerv1.NewSecretsClient(conn).Delete(c.Context(), &controllerv1.DeleteSecretRequest{Name: args[0]}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s is gone; enclaves forget it when they ask next: revoke it where it was issued if they must not use it meanwhile\n", args[0])
				return err
			})
		},
	}
}
