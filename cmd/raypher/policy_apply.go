package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/evidence"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func policyApplyCommand() *cobra.Command {
	var r parentv1.ApplyPolicyRequest
	var agent string
	var asJSON bool
	c := &cobra.Command{
		Use:   "apply --agent AGENT policy.yaml",
		Short: "Give a running agent another policy",
		Long: `Give a running agent another policy, in the place of the one that it has: the enclave grants a visa on it, and it is in force when the
command ends. It may be narrower than the policy of the launch in any way, and as wide again; what goes beyond that, and what the launch has
fixed (mode, system calls, limits), needs another launch and is refused with the reason. A mistake changes nothing.

AGENT is an id, the beginning of one, or a name; it must mean one agent.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, words []string) error {
			if err := readFor(words[0], &r.Policy, &r.PolicyPath); err != nil {
				return usageError(fmt.Errorf("policy apply: %w", err))
			}
			var reply *parentv1.ApplyPolicyReply
			err := withOperator(func(operator parentv1.OperatorClient) error {
				running, err := runningAgents(c.Context(), operator)
				if err != nil {
					return err
				}
				if r.AgentId, err = theOne(agent, running); err != nil {
					return err
				}
				reply, err = operator.ApplyPolicy(c.Context(), &r)
				return err
			})
			switch {
			case err != nil:
				return err
			case asJSON:
				return printAppliedJSON(c.OutOrStdout(), reply)
			}
			return printApplied(c.OutOrStdout(), reply, r.Check)
		},
	}
	c.Flags().StringVar(&agent, "agent", "", "the agent")
	c.Flags().BoolVar(&r.Check, "check", false, "say what would become of it, and change nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	if err := c.MarkFlagRequired("agent"); err != nil {
		panic(err) // there is no such flag
	}
	return c
}

func printApplied(out io.Writer, reply *parentv1.ApplyPolicyReply, check bool) error {
	var text bytes.Buffer
	word := "live"
	if check {
		word = "would be live"
	}
	if len(reply.Live) == 0 {
		fmt.Fprintln(&text, "nothing changes: it is in force already")
	}
	for _, l := range reply.Live {
		fmt.Fprintf(&text, "%s: %s\n", word, evidence.Printable(l))
	}
	for _, b := range reply.Bounds {
		fmt.Fprintf(&text, "stays: %s\n", evidence.Printable(b))
	}
	_, err := out.Write(text.Bytes())
	return err
}

// printAppliedJSON prints the permit as the object that it is.
func printAppliedJSON(out io.Writer, reply *parentv1.ApplyPolicyReply) error {
	return printJSON(out, struct {
		Live   []string        `json:"live"`
		Bounds []string        `json:"bounds"`
		Permit json.RawMessage `json:"permit"`
	}{append([]string{}, reply.Live...), append([]string{}, reply.Bounds...), reply.Permit})
}

func reloadCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have raypherd read the host's policy and namespaces anew",
		Long: `Have raypherd read anew what it read at its start: the host's policy (/etc/raypher/policy.yaml) and what namespaces may use. SIGHUP does the
same. A mistake in either changes nothing, and is said. Agents that run keep what they were granted: see raypher policy apply.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var reply *parentv1.ReloadReply
			err := withOperator(func(operator parentv1.OperatorClient) (err error) {
				reply, err = operator.Reload(c.Context(), &parentv1.ReloadRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printProto(c.OutOrStdout(), reply)
			}
			if len(reply.Changes) == 0 {
				reply.Changes = []string{"nothing has changed"}
			}
			for _, change := range reply.Changes {
				if _, err := fmt.Fprintln(c.OutOrStdout(), evidence.Printable(change)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
