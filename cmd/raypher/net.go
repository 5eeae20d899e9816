package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/raypher/raypher/evidence"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func netCommand() *cobra.Command {
	c := &cobra.Command{Use: "net", Short: "Watch the network of agents, and cut them off"}
	c.AddCommand(netTopCommand(), netCutCommand(), netRestoreCommand())
	return c
}

func netCutCommand() *cobra.Command {
	var asJSON bool
	cut := &parentv1.NetworkCut{}
	c := &cobra.Command{
		Use:   "cut AGENT",
		Short: "Cut an agent off the network, or off a name or an address, at once",
		Long: "Cut an agent off the network, whatever it is granted, until `raypher net restore`: new flows and open ones, in both directions.\n" +
			"Without --name and --address it reaches nothing any more. Cuts are in the journal, and outlive a restart of raypherd.\n" +
			"AGENT is an id, the beginning of one, or a name; it must mean one agent.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, words []string) error {
			return changeCuts(c, words[0], asJSON, func(operator parentv1.OperatorClient, id string) (*parentv1.NetworkCuts, error) {
				return operator.CutNetwork(c.Context(), &parentv1.CutNetworkRequest{AgentId: id, Cut: cut})
			})
		},
	}
	c.Flags().StringVar(&cut.Name, "name", "", "cut it off this host `NAME` alone, or off all names below with *.NAME")
	c.Flags().StringVar(&cut.Address, "address", "", "cut it off this address or `CIDR` alone")
	c.Flags().BoolVar(&cut.Reject, "reject", false, "let calls fail at once and reset open streams, instead of silence")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON: all that the agent is cut off then")
	return c
}

func netRestoreCommand() *cobra.Command {
	var name, address string
	var asJSON bool
	c := &cobra.Command{
		Use:   "restore AGENT",
		Short: "End what 'raypher net cut' did: all of it, or one cut",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, words []string) error {
			r := &parentv1.RestoreNetworkRequest{}
			if name != "" || address != "" {
				r.Cut = &parentv1.NetworkCut{Name: name, Address: address}
			}
			return changeCuts(c, words[0], asJSON, func(operator parentv1.OperatorClient, id string) (*parentv1.NetworkCuts, error) {
				r.AgentId = id
				return operator.RestoreNetwork(c.Context(), r)
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "end the cut of this `NAME` alone")
	c.Flags().StringVar(&address, "address", "", "end the cut of this address or `CIDR` alone")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON: what the agent is still cut off")
	return c
}

// changeCuts asks for a change and says what the agent is cut off then.
func changeCuts(c *cobra.Command, word string, asJSON bool, change func(parentv1.OperatorClient, string) (*parentv1.NetworkCuts, error)) error {
	return withOperator(func(operator parentv1.OperatorClient) error {
		id, err := agentOf(c.Context(), operator, word)
		if err != nil {
			return err
		}
		reply, err := change(operator, id)
		if err != nil {
			return err
		}
		if asJSON {
			return printProto(c.OutOrStdout(), reply)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "agent %s is cut off %s\n", id, cutWords(reply.Cuts))
		return err
	})
}

func agentOf(ctx context.Context, operator parentv1.OperatorClient, word string) (string, error) {
	running, err := runningAgents(ctx, operator)
	if err != nil {
		return "", err
	}
	return theOne(word, running)
}

// cutWords says what is cut in one line.
func cutWords(cuts []*parentv1.NetworkCut) string {
	if len(cuts) == 0 {
		return "nothing"
	}
	words := make([]string, len(cuts))
	for i, c := range cuts {
		words[i] = c.Name + c.Address
		if words[i] == "" {
			words[i] = "everything"
		}
		if c.Reject {
			words[i] += " (with an error)"
		}
		words[i] += " by " + c.User
	}
	return evidence.Printable(strings.Join(words, ", "))
}

func netTopCommand() *cobra.Command {
	var asJSON, once bool
	var every time.Duration
	c := &cobra.Command{
		Use:   "top [AGENT]",
		Short: "Show what passes by each rule of each agent, what is dropped, and what is cut",
		Long: "Show what passes by each rule of each agent, what is dropped, and what is cut, until it is interrupted; once, where the output is\n" +
			"no terminal. Bytes are those of IP packets in both directions, since the agent's launch. The agents are those of one raypherd: a run\n" +
			"without a daemon has one of its own, which RAYPHER_RUN_DIR names.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, words []string) error {
			return withOperator(func(operator parentv1.OperatorClient) error {
				r := &parentv1.NetworkTrafficRequest{}
				if len(words) > 0 {
					var err error
					if r.AgentId, err = agentOf(c.Context(), operator, words[0]); err != nil {
						return err
					}
				}
				reply, err := operator.NetworkTraffic(c.Context(), r)
				if err != nil {
					return err
				}
				if asJSON {
					return printProto(c.OutOrStdout(), reply)
				}
				out, live := c.OutOrStdout().(*os.File)
				if once || !live || !term.IsTerminal(int(out.Fd())) {
					return printTraffic(c.OutOrStdout(), reply, nil, 0)
				}
				return watchTraffic(c.Context(), out, operator, r, every)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON, once")
	c.Flags().BoolVar(&once, "once", false, "show it once, also on a terminal")
	c.Flags().DurationVar(&every, "every", time.Second, "how often the table is drawn anew")
	return c
}

// watchTraffic draws the table again and again, with rates.
func watchTraffic(ctx context.Context, out io.Writer, operator parentv1.OperatorClient, r *parentv1.NetworkTrafficRequest, every time.Duration) error {
	tick := time.NewTicker(max(every, 100*time.Millisecond))
	defer tick.Stop()
	var before *parentv1.NetworkTrafficReply
	var at time.Time
	for {
		reply, err := operator.NetworkTraffic(ctx, r)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		now := time.Now()
		fmt.Fprint(out, "\x1b[H\x1b[2J") // to the top, clear
		if err := printTraffic(out, reply, before, now.Sub(at)); err != nil {
			return err
		}
		before, at = reply, now
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printTraffic prints a line for each rule of each agent; with an earlier reply also how fast it goes.
func printTraffic(out io.Writer, reply, before *parentv1.NetworkTrafficReply, since time.Duration) error {
	if len(reply.Agents) == 0 {
		_, err := fmt.Fprintln(out, "no agent runs")
		return err
	}
	last := map[string]*parentv1.RuleTraffic{}
	for _, a := range before.GetAgents() {
		for _, r := range a.Rules {
			last[a.AgentId+" "+r.Rule] = r
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "AGENT\tNAME\tRULE\tOUT\tIN\tPACKETS OUT\tPACKETS IN\tDROPPED\tRATE")
	for _, a := range reply.Agents {
		for _, r := range a.Rules {
			rate := ""
			if b := last[a.AgentId+" "+r.Rule]; b != nil && since > 0 {
				rate = volume(uint64(float64(r.BytesOut+r.BytesIn-b.BytesOut-b.BytesIn)/since.Seconds())) + "/s"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", a.AgentId, evidence.Printable(a.Name), evidence.Printable(r.Rule),
				volume(r.BytesOut), volume(r.BytesIn), r.PacketsOut, r.PacketsIn, r.DroppedPackets, rate)
		}
		if len(a.Rules) == 0 {
			fmt.Fprintf(table, "%s\t%s\tnothing yet\n", a.AgentId, evidence.Printable(a.Name))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, a := range reply.Agents {
		if len(a.Cuts) > 0 {
			fmt.Fprintf(out, "agent %s is cut off %s\n", a.AgentId, cutWords(a.Cuts))
		}
	}
	return nil
}

// volume is a number of bytes for people.
func volume(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1000, 0
	for value >= 999.95 && unit < len(units)-1 {
		value, unit = value/1000, unit+1
	}
	return fmt.Sprintf("%.1f %cB", value, units[unit])
}
