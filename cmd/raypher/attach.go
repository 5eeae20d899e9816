package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/parent/attend"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func attachCommand() *cobra.Command {
	var r parentv1.AttachRequest
	var policyPath string
	var asJSON bool
	c := &cobra.Command{
		Use:   "attach (--cgroup PATH | --pid N | --unit NAME) [--policy policy.yaml]",
		Short: "Put programs that run already under a policy",
		Long: `Put what runs in a cgroup, as that of a unit of systemd, under a policy: the enclave grants it a visa that names the cgroup, and the kernel
holds everything in it from then on. Files, programs and signals are held where programs of BPF LSM load (raypher doctor says); elsewhere
--network-only holds the network section, and nothing else.

A program that runs already keeps what it has: open descriptors, mappings, capabilities. What nothing holds is listed. Start an agent with
raypher run where you can.

It ends with the last process in the cgroup, or with raypher detach. A unit that is started again has another cgroup: attach it again.`,
		Example: `  raypher attach --unit nginx --policy nginx.yaml
  raypher attach --pid 4711 --network-only --policy policy.yaml
  raypher detach nginx`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ways := 0
			for _, name := range []string{"cgroup", "pid", "unit"} {
				if c.Flags().Changed(name) {
					ways++
				}
			}
			if ways != 1 {
				return usageError(errors.New("attach: name what to attach: one of --cgroup, --pid and --unit"))
			}
			if err := readFor(policyPath, &r.Policy, &r.PolicyPath); err != nil {
				return usageError(fmt.Errorf("attach: policy: %w", err))
			}
			var reply *parentv1.AttachReply
			err := withOperator(func(operator parentv1.OperatorClient) (err error) {
				reply, err = operator.Attach(c.Context(), &r)
				return err
			})
			switch {
			case err != nil:
				return err
			case asJSON:
				return printProto(c.OutOrStdout(), reply.Agent)
			}
			return printAttached(c.OutOrStdout(), reply.Agent)
		},
	}
	f := c.Flags()
	f.StringVar(&r.Cgroup, "cgroup", "", "the cgroup's folder, or its path as /proc/PID/cgroup shows it")
	f.Int32Var(&r.Pid, "pid", 0, "the cgroup of this process, with everything else in it")
	f.StringVar(&r.Unit, "unit", "", "the cgroup of this unit of systemd")
	f.StringVar(&policyPath, "policy", "", "policy file, or fleet:NAME (default: the host's)")
	f.StringVar(&r.Name, "name", "", "name in the visa (default: the cgroup's)")
	f.BoolVar(&r.NetworkOnly, "network-only", false, "hold the network section, and nothing else of the policy")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// readFor reads the policy that a flag names, if it does, for a request.
func readFor(path string, content *[]byte, name *string) (err error) {
	*name = path
	if path == "" || strings.HasPrefix(path, attend.FleetPolicy) {
		return nil
	}
	*content, err = os.ReadFile(path)
	return err
}

func printAttached(out io.Writer, a *parentv1.AgentStatus) error {
	holds := "network, files, programs and other processes"
	if a.Backend == "network" {
		holds = "the network, and nothing else"
	}
	processes := "processes"
	if a.Processes == 1 {
		processes = "process"
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "attached %s as agent %s (%s), %d %s, mode %s\nheld: %s\nnot held:\n",
		evidence.Printable(a.Attached), a.AgentId, evidence.Printable(a.Subject), a.Processes, processes, a.Mode, holds)
	for _, u := range a.Uncovered {
		fmt.Fprintf(&text, "  - %s\n", evidence.Printable(u))
	}
	_, err := out.Write(text.Bytes())
	return err
}

func detachCommand() *cobra.Command {
	var cgroup string
	c := &cobra.Command{
		Use:   "detach AGENT",
		Short: "Let go of programs that raypher attach put under a policy",
		Long: `Let go of programs that raypher attach put under a policy: they run on, and nothing holds them. The journal says so. AGENT is an id, the
beginning of one, or a name; it must mean one agent. --cgroup lets go of a cgroup that stayed closed because its agent could not be found again.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, words []string) error {
			if (cgroup == "") == (len(words) == 0) {
				return usageError(errors.New("detach: name an agent, or a cgroup with --cgroup"))
			}
			return withOperator(func(operator parentv1.OperatorClient) error {
				r := &parentv1.DetachRequest{Cgroup: cgroup}
				if len(words) == 1 {
					running, err := runningAgents(c.Context(), operator)
					if err != nil {
						return err
					}
					if r.AgentId, err = theOne(words[0], running); err != nil {
						return err
					}
				}
				_, err := operator.Detach(c.Context(), r)
				return err
			})
		},
	}
	c.Flags().StringVar(&cgroup, "cgroup", "", "a cgroup of no agent that raypherd knows")
	return c
}
