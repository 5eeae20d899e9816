package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/raypher/raypher/enclave/ceiling"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/release"
)

func fleetReleaseCommand(with withController) *cobra.Command {
	c := &cobra.Command{
		Use:   "release",
		Short: "Hand signed ceilings and policies to the hosts of the fleet",
		Long: `Hand signed ceilings and policies to the hosts of the fleet. The controller cannot make or change one: hosts check the operator's
signature. Versions only go upwards.`,
		Example: `  raypher fleet release ceiling --hosts '*' ceiling.ceiling
  raypher fleet release policy --hosts 'build-*' --canary 10 policy.release
  raypher fleet release canary coder 100
  raypher fleet release list`,
	}
	c.AddCommand(fleetReleaseCeilingCommand(with), fleetReleasePolicyCommand(with), fleetReleaseCanaryCommand(with), fleetReleaseListCommand(with))
	return c
}

func fleetReleaseCeilingCommand(with withController) *cobra.Command {
	var hosts []string
	var asJSON bool
	c := &cobra.Command{
		Use:     "ceiling --hosts PATTERN BUNDLE",
		Short:   "Release a ceiling, as raypher ceiling sign makes it",
		Example: "  raypher fleet release ceiling --hosts 'build-*' ceiling.ceiling",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			bundle, err := readBounded(args[0], ceiling.MaxBundle)
			if err != nil {
				return usageError(err)
			}
			if _, _, err := ceiling.Read(bundle); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return with(c, func(conn grpc.ClientConnInterface) error {
				r, err := controllerv1.NewDistributionClient(conn).PutCeiling(c.Context(), &controllerv1.PutCeilingRequest{Bundle: bundle, Hosts: hosts})
				return printRelease(c.OutOrStdout(), r, err, asJSON)
			})
		},
	}
	c.Flags().StringArrayVar(&hosts, "hosts", nil, "pattern of the hosts that it is for, * and ? (may be repeated)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.MarkFlagRequired("hosts")
	return c
}

func fleetReleasePolicyCommand(with withController) *cobra.Command {
	var hosts []string
	var percent uint32
	var asJSON bool
	c := &cobra.Command{
		Use:     "policy --hosts PATTERN FILE",
		Short:   "Release a policy, as raypher policy release makes it, to some or all agents",
		Example: "  raypher fleet release policy --hosts 'build-*' --canary 10 policy.release",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if percent < 1 || percent > release.Everyone {
				return usageError(fmt.Errorf("--canary %d: use 1 to %d percent", percent, release.Everyone))
			}
			bundle, err := readBounded(args[0], release.MaxFile)
			if err != nil {
				return usageError(err)
			}
			if _, _, err := release.Read(bundle); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return with(c, func(conn grpc.ClientConnInterface) error {
				r, err := controllerv1.NewDistributionClient(conn).PutPolicy(c.Context(), &controllerv1.PutPolicyRequest{Bundle: bundle, Hosts: hosts, CanaryPercent: percent})
				return printRelease(c.OutOrStdout(), r, err, asJSON)
			})
		},
	}
	c.Flags().StringArrayVar(&hosts, "hosts", nil, "pattern of the hosts that it is for, * and ? (may be repeated)")
	c.Flags().Uint32Var(&percent, "canary", release.Everyone, "percent of agents that get it, the others keep the version before; raise it with raypher fleet release canary")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.MarkFlagRequired("hosts")
	return c
}

func fleetReleaseCanaryCommand(with withController) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "canary NAME PERCENT",
		Short:   "Change how many percent of agents get the newest version of a policy; 100 ends the canary",
		Example: "  raypher fleet release canary coder 50",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			percent, err := strconv.ParseUint(strings.TrimSuffix(args[1], "%"), 10, 8)
			if err != nil || percent < 1 || percent > release.Everyone {
				return usageError(fmt.Errorf("%.20q: use 1 to %d percent", args[1], release.Everyone))
			}
			return with(c, func(conn grpc.ClientConnInterface) error {
				r, err := controllerv1.NewDistributionClient(conn).SetCanary(c.Context(), &controllerv1.SetCanaryRequest{Name: args[0], CanaryPercent: uint32(percent)})
				return printRelease(c.OutOrStdout(), r, err, asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// releaseJSON is a release as --json prints it.
type releaseJSON struct {
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Version uint64    `json:"version"`
	Hosts   []string  `json:"hosts"`
	Canary  uint32    `json:"canary_percent"`
	Put     time.Time `json:"put"`
	SHA256  string    `json:"sha256"`
	On      []string  `json:"on,omitempty"` // hosts that said that they have it
}

func releaseLine(r *controllerv1.Release) releaseJSON {
	return releaseJSON{
		Kind: r.GetKind(), Name: r.GetName(), Version: r.GetVersion(), Hosts: r.GetHosts(), Canary: r.GetCanaryPercent(),
		Put: time.Unix(r.GetPutUnix(), 0).UTC(), SHA256: r.GetSha256(),
	}
}

func printRelease(out io.Writer, r *controllerv1.Release, err error, asJSON bool) error {
	if err != nil {
		return err
	}
	line := releaseLine(r)
	if asJSON {
		return printJSON(out, line)
	}
	hosts := strings.Join(line.Hosts, " ")
	switch {
	case line.Kind == "ceiling":
		_, err = fmt.Fprintf(out, "ceiling version %d, on %s\n", line.Version, hosts)
	case line.Canary == release.Everyone:
		_, err = fmt.Fprintf(out, "policy %s version %d, for all agents on %s\n", line.Name, line.Version, hosts)
	default:
		_, err = fmt.Fprintf(out, "policy %s version %d, for %d %% of agents on %s\n", line.Name, line.Version, line.Canary, hosts)
	}
	return err
}

func fleetReleaseListCommand(with withController) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "Show what was released, the newest of each name first, and which hosts said that they have it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return with(c, func(conn grpc.ClientConnInterface) error {
				reply, err := controllerv1.NewDistributionClient(conn).Releases(c.Context(), &controllerv1.ReleasesRequest{})
				if err != nil {
					return err
				}
				hosts, err := allHosts(c.Context(), conn)
				if err != nil {
					return err
				}
				lines := make([]releaseJSON, 0, len(reply.GetReleases()))
				for _, r := range reply.GetReleases() {
					line := releaseLine(r)
					for _, h := range hosts {
						if line.isOn(h) {
							line.On = append(line.On, h.GetName())
						}
					}
					lines = append(lines, line)
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), lines)
				}
				return printReleases(c.OutOrStdout(), lines)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// isOn says whether a host reported that it has the release.
func (r *releaseJSON) isOn(h *controllerv1.Host) bool {
	if r.Kind == "ceiling" {
		for _, p := range r.Hosts {
			if ceiling.Match(p, h.GetName()) {
				return h.GetCeilingVersion() == r.Version
			}
		}
		return false
	}
	for _, p := range h.GetPolicies() {
		if p.GetName() == r.Name && p.GetVersion() == r.Version {
			return true
		}
	}
	return false
}

func printReleases(out io.Writer, lines []releaseJSON) error {
	if len(lines) == 0 {
		_, err := fmt.Fprintln(out, "nothing was released: raypher fleet release ceiling or policy does it")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KIND\tNAME\tVERSION\tHOSTS\tAGENTS\tPUT\tON")
	for _, r := range lines {
		name, agents := r.Name, fmt.Sprintf("%d %%", r.Canary)
		if r.Kind == "ceiling" {
			name, agents = "-", "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", r.Kind, name, r.Version, strings.Join(r.Hosts, " "), agents, r.Put.Format(time.RFC3339), counted(len(r.On), "host"))
	}
	return table.Flush()
}
