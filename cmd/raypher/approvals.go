package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func approvalsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "approvals",
		Short: "Answer the calls of agents that wait for a person",
		Long: `List, watch and answer the calls of agents that wait for a person, because require_approval of their policies names what they do.

Who answers must be root or in the group raypher, and outside every agent. Each answer is in the journal, with who gave it,
before the call goes on: 'raypher evidence list' shows it.`,
	}
	c.AddCommand(approvalsListCommand(), approvalsWatchCommand(), approveCommand(), denyCommand(), proposalsCommand())
	return c
}

func approvalsListCommand() *cobra.Command {
	var agent string
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the calls that wait for a person",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var reply *parentv1.ListApprovalsReply
			err := withOperator(func(operator parentv1.OperatorClient) (err error) {
				id, err := waitingAgent(c.Context(), operator, agent)
				if err == nil {
					reply, err = operator.ListApprovals(c.Context(), &parentv1.ListApprovalsRequest{AgentId: id})
				}
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printProto(c.OutOrStdout(), reply)
			}
			return printQuestions(c.OutOrStdout(), reply.Questions, time.Now())
		},
	}
	c.Flags().StringVar(&agent, "agent", "", "only those of the agent with this id, beginning of an id, or name")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// waitingAgent is the id of the agent that word means; empty: all.
func waitingAgent(ctx context.Context, operator parentv1.OperatorClient, word string) (string, error) {
	if word == "" {
		return "", nil
	}
	running, err := runningAgents(ctx, operator)
	if err != nil {
		return "", err
	}
	return theOne(word, running)
}

func printQuestions(out io.Writer, questions []*parentv1.ApprovalQuestion, now time.Time) error {
	if len(questions) == 0 {
		_, err := fmt.Fprintln(out, "nothing waits for a person")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tAGENT\tWANTS TO\tTARGET\tASKED BY RULE\tPROGRAM\tCALLS\tWAITS\tREFUSED IN")
	for _, q := range questions {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s[%d]\t%d\t%s\t%s\n", evidence.Printable(q.Id), evidence.Printable(nameIn(q.Subject)),
			evidence.Printable(q.Operation), targets(q), evidence.Printable(q.Rule), quoted(q.Comm), q.Pid, max(q.Calls, 1),
			now.Sub(time.Unix(0, q.AskedUnixNano)).Round(time.Second), refusedIn(q, now))
	}
	return table.Flush()
}

// targets is what a question is about: the path, or both, or the address with its name.
func targets(q *parentv1.ApprovalQuestion) string {
	text, other := quoted(q.Target), quoted(q.Other)
	switch {
	case q.Other == "":
		return text
	case q.Operation == "rename":
		return text + " to " + other
	case q.Operation == "exchange":
		return text + " and " + other
	case slices.Contains([]string{"chmod", "chown", "truncate"}, q.Operation):
		return text + " (" + evidence.Printable(q.Other) + ")"
	case q.Operation == "link":
		return other + " for " + text
	}
	return text + " (" + other + ")"
}

// quoted is a word that the agent chose. It stands in quotation marks where it could pass for more than one, or for what is around it.
func quoted(text string) string {
	for _, r := range text {
		if !strconv.IsPrint(r) || strings.ContainsRune(" ()\"'`\\?,", r) {
			return strconv.Quote(text)
		}
	}
	return text
}

func refusedIn(q *parentv1.ApprovalQuestion, now time.Time) string {
	if q.UntilUnixNano == 0 {
		return "never"
	}
	return max(time.Unix(0, q.UntilUnixNano).Sub(now), 0).Round(time.Second).String()
}

func approveCommand() *cobra.Command {
	request := parentv1.AnswerRequest{Approve: true}
	c := &cobra.Command{
		Use:   "approve ID...",
		Short: "Let the calls that wait with a question go on",
		Long: `Let the calls that wait with a question go on. ID is that of 'raypher approvals list', or its end after a shortened agent: 3f-2.

--for once, the default, is for the calls that wait now; run is also for equal calls of this agent as long as it lives; a duration
like 15m, up to 24h, for equal calls in that time. Equal is the same operation on the same resolved target.
--always writes a proposed change of the policy for review, too. It grants nothing, and changes no policy.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, ids []string) error { return answer(c, ids, &request) },
	}
	c.Flags().StringVar(&request.Scope, "for", journal.ScopeOnce, "once, run, or a duration like 15m")
	c.Flags().BoolVar(&request.Always, "always", false, "propose a change of the policy, for review")
	return c
}

func denyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "deny ID...",
		Short: "Fail the calls that wait with a question",
		Long:  "Fail the calls that wait with a question, with EACCES. A later equal call is asked about again.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			return answer(c, ids, &parentv1.AnswerRequest{})
		},
	}
}

// answer gives one answer to several questions. The first that fails ends it.
func answer(c *cobra.Command, words []string, with *parentv1.AnswerRequest) error {
	return withOperator(func(operator parentv1.OperatorClient) error {
		reply, err := operator.ListApprovals(c.Context(), &parentv1.ListApprovalsRequest{})
		if err != nil {
			return err
		}
		ids := make([]string, len(words)) // all are known before the first is answered
		for i, word := range words {
			if ids[i], err = theQuestion(word, reply.Questions); err != nil {
				return err
			}
		}
		for _, id := range ids {
			request := &parentv1.AnswerRequest{Id: id, Approve: with.Approve, Scope: with.Scope, Always: with.Always}
			reply, err := operator.Answer(c.Context(), request)
			if err != nil {
				return err
			}
			said := "denied"
			if with.Approve {
				said = "approved"
			}
			fmt.Fprintf(c.OutOrStdout(), "%s %s [%x:%d]\n", said, id, reply.Epoch[:min(len(reply.Epoch), 4)], reply.Index)
			if reply.Proposal != "" {
				fmt.Fprintf(c.OutOrStdout(), "proposed %s: review it; no policy was changed\n", reply.Proposal)
			}
		}
		return nil
	})
}

// theQuestion returns the id of the only question that word means: its id, or one with the beginning of the agent's and the same
// number.
func theQuestion(word string, questions []*parentv1.ApprovalQuestion) (string, error) {
	agent, number, _ := strings.Cut(word, "-")
	var found []string
	for _, q := range questions {
		if q.Id == word {
			return q.Id, nil
		}
		if rest, ok := strings.CutPrefix(q.Id, q.AgentId+"-"); ok && rest == number && strings.HasPrefix(q.AgentId, agent) {
			found = append(found, q.Id)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("question %q: it may be %s: write one of them", word, strings.Join(found, " or "))
	}
	return "", fmt.Errorf("question %q: it was answered, or nobody waits for it any more: `raypher approvals list` names those that wait", word)
}

func proposalsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "proposals",
		Short: "Show the changes of policies that answers with --always proposed",
		Long: `Show the changes of policies that answers with --always proposed. Nothing is in force by them: review one, change the policy, sign
it where it is signed, and remove the file.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var reply *parentv1.ListProposalsReply
			err := withOperator(func(operator parentv1.OperatorClient) (err error) {
				reply, err = operator.ListProposals(c.Context(), &parentv1.ListProposalsRequest{})
				return err
			})
			switch {
			case err != nil:
				return err
			case asJSON:
				return printProposalsJSON(c.OutOrStdout(), reply.Proposals)
			case len(reply.Proposals) == 0:
				_, err = fmt.Fprintln(c.OutOrStdout(), "nothing is proposed")
				return err
			}
			for _, p := range reply.Proposals {
				if _, err := fmt.Fprintf(c.OutOrStdout(), "--- %s\n%s", evidence.Printable(p.Path), p.Content); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// printProposalsJSON prints what the files say as text.
func printProposalsJSON(out io.Writer, proposals []*parentv1.Proposal) error {
	type file struct {
		Name    string `json:"name"`
		Path    string `json:"path"`
		Content string `json:"content"`
	}
	files := make([]file, len(proposals))
	for i, p := range proposals {
		files[i] = file{p.Name, p.Path, string(p.Content)}
	}
	return printJSON(out, struct {
		Proposals []file `json:"proposals"`
	}{files})
}

// eachChange hands over what raypherd sends, until it ends or each fails.
func eachChange(ctx context.Context, operator parentv1.OperatorClient, agent string, each func(*parentv1.ApprovalChange) error) error {
	stream, err := operator.WatchApprovals(ctx, &parentv1.WatchApprovalsRequest{AgentId: agent})
	if err != nil {
		return err
	}
	for {
		change, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = each(change)
		}
		if err != nil {
			return err
		}
	}
}
