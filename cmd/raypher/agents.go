package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/evidence"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/startconf"
)

func agentsCommand() *cobra.Command {
	c := &cobra.Command{Use: "agents", Short: "List and stop the agents that run under the guard"}
	c.AddCommand(agentsListCommand(), agentsStopCommand())
	return c
}

func agentsListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the agents that run, and what their namespaces have given to them",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var reply *parentv1.ListAgentsReply
			err := withOperator(func(operator parentv1.OperatorClient) (err error) {
				reply, err = operator.ListAgents(c.Context(), &parentv1.ListAgentsRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printProto(c.OutOrStdout(), reply)
			}
			if err := printAgents(c.OutOrStdout(), reply.Agents); err != nil {
				return err
			}
			return printNamespaces(c.OutOrStdout(), reply.Namespaces)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func printAgents(out io.Writer, agents []*parentv1.AgentStatus) error {
	if len(agents) == 0 {
		_, err := fmt.Fprintln(out, "no agent runs")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "AGENT\tNAME\tSTATE\tMODE\tUID\tPROCESSES\tBLOCKED\tRUNS\tVISA ENDS IN\tSUBJECT\tPROGRAM")
	for _, a := range agents {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", a.AgentId, evidence.Printable(a.Name), a.State, a.Mode, a.Uid, a.Processes, a.Blocked,
			time.Since(time.Unix(a.StartedUnix, 0)).Round(time.Second), time.Until(time.Unix(a.ExpiresUnix, 0)).Round(time.Second),
			evidence.Printable(a.Subject), evidence.Printable(a.Program))
	}
	return table.Flush()
}

func agentsStopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop AGENT...",
		Short: "End agents with everything that runs in them",
		Long:  "End agents with everything that runs in them. AGENT is an id, the beginning of one, or a name; it must mean one agent.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, words []string) error {
			return withOperator(func(operator parentv1.OperatorClient) error {
				running, err := runningAgents(c.Context(), operator)
				if err != nil {
					return err
				}
				ids := make([]string, len(words)) // all are known before the first is ended
				for i, word := range words {
					if ids[i], err = theOne(word, running); err != nil {
						return err
					}
				}
				for _, id := range ids {
					if _, err := operator.StopAgent(c.Context(), &parentv1.StopAgentRequest{AgentId: id}); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func statusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what the daemon on this host is and how it does",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var reply *parentv1.StatusReply
			var fleet *parentv1.OperatorFleetStatus
			err := withOperator(func(operator parentv1.OperatorClient) (err error) {
				if reply, err = operator.Status(c.Context(), &parentv1.StatusRequest{}); err != nil {
					return err
				}
				fleet, _ = operator.DescribeFleet(c.Context(), &parentv1.OperatorDescribeFleetRequest{}) // an enclave that is away is in the status
				return nil
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), statusLine(reply))
			}
			return printStatus(c.OutOrStdout(), reply, fleet)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// statusJSON is the daemon as --json prints it.
type statusJSON struct {
	Version          string            `json:"version"`
	Backend          string            `json:"backend"`
	EnclaveReachable bool              `json:"enclave_reachable"`
	Tier             string            `json:"tier"`
	Development      bool              `json:"development"`
	EnclaveKey       string            `json:"enclave_key"` // sha256:HEX of the PKIX DER, as enclave.pin has it; empty: not known
	Epoch            string            `json:"epoch"`       // hexadecimal, as everywhere
	CeilingVersion   uint64            `json:"ceiling_version"`
	Agents           uint32            `json:"agents"`
	Namespaces       []namespaceJSON   `json:"namespaces"` // those that have limits by name, or agents
	Counters         map[string]uint64 `json:"counters"`
	Notes            []string          `json:"notes"`
}

func statusLine(s *parentv1.StatusReply) statusJSON {
	line := statusJSON{
		Version: s.GetVersion(), Backend: s.GetBackend(), EnclaveReachable: s.GetEnclaveReachable(), Tier: s.GetTier(), Development: s.GetDevelopment(),
		Epoch: hex.EncodeToString(s.GetEpoch()), CeilingVersion: s.GetCeilingVersion(), Agents: s.GetAgents(), Namespaces: namespaceLines(s.GetNamespaces()), Counters: s.GetCounters(), Notes: s.GetNotes(),
	}
	if der := s.GetEnclaveKey(); len(der) > 0 {
		line.EnclaveKey = startconf.KeyHash(sha256.Sum256(der)).String()
	}
	return line
}

func printStatus(out io.Writer, s *parentv1.StatusReply, fleet *parentv1.OperatorFleetStatus) error {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	enclave := "not reachable: no agent can be started, running ones keep what their visas grant"
	if s.EnclaveReachable {
		enclave = "reachable, tier " + s.Tier
	}
	if s.Development {
		enclave += ", development: ceiling and operator key were made at its first start"
	}
	ceiling := fmt.Sprintf("version %d", s.CeilingVersion)
	switch {
	case !s.EnclaveReachable:
		ceiling = "not known"
	case s.CeilingVersion == 0:
		ceiling = "none: nothing is granted until one is signed and installed, see 'raypher ceiling --help'"
	}
	fmt.Fprintf(table, "version\t%s\nbackend\t%s\nenclave\t%s\nepoch\t%x\nceiling\t%s\nagents\t%d\n",
		s.Version, s.Backend, enclave, s.Epoch, ceiling, s.Agents)
	for _, line := range fleetLines(fleet, time.Now()) {
		fmt.Fprintln(table, line)
	}
	for _, note := range s.Notes {
		fmt.Fprintf(table, "note\t%s\n", note)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
		fmt.Fprintf(table, "%s\t%d\n", evidence.Printable(name), s.Counters[name])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := printNamespaces(&text, s.Namespaces); err != nil {
		return err
	}
	_, err := out.Write(text.Bytes())
	return err
}

func printProto(out io.Writer, m proto.Message) error {
	text, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = out.Write(append(text, '\n'))
	return err
}
