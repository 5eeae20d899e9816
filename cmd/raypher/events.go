package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/evidence"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func eventsCommand() *cobra.Command {
	var request parentv1.EventsRequest
	var agent string
	var asJSON bool
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what the guard refused, as it happens",
		Long: `Show the latest verdicts of the guard, of all agents or of one; with --follow also those that come, until ctrl-C.

Each line is in the journal already when it has an entry in brackets: 'raypher evidence export' proves it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(func(operator parentv1.OperatorClient) (err error) {
				if agent != "" {
					if request.AgentId, err = seenAgent(c.Context(), operator, agent); err != nil {
						return err
					}
				}
				return eachEvent(c.Context(), operator, &request, func(e *parentv1.Event) error {
					return printEvent(c.OutOrStdout(), e, asJSON)
				})
			})
		},
	}
	c.Flags().BoolVarP(&request.Follow, "follow", "f", false, "go on with what comes")
	c.Flags().StringVar(&agent, "agent", "", "only those of the agent with this id, beginning of an id, or name")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return c
}

// eachEvent hands over what raypherd sends, until it ends or each fails.
func eachEvent(ctx context.Context, operator parentv1.OperatorClient, r *parentv1.EventsRequest, each func(*parentv1.Event) error) error {
	stream, err := operator.Events(ctx, r)
	if err != nil {
		return err
	}
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = each(e)
		}
		if err != nil {
			return err
		}
	}
}

// seenAgent returns the id of the agent that word means: one that runs, else one that the latest events are of.
func seenAgent(ctx context.Context, operator parentv1.OperatorClient, word string) (string, error) {
	running, err := runningAgents(ctx, operator)
	if err != nil {
		return "", err
	}
	if len(called(word, running)) > 0 {
		return theOne(word, running)
	}
	var items []listItem
	err = eachEvent(ctx, operator, &parentv1.EventsRequest{}, func(e *parentv1.Event) error {
		item, err := newListItem(hex.EncodeToString(e.Epoch), e.Index, e.Verdict)
		items = append(items, item)
		return err
	})
	if err != nil {
		return "", err
	}
	if ended := called(word, agentsOf(items)); len(ended) > 0 {
		return theOne(word, ended)
	}
	return theOne(word, running)
}

// printEvent prints one line. What an agent chose is escaped: it must not speak to the terminal.
func printEvent(out io.Writer, e *parentv1.Event, asJSON bool) error {
	item, err := newListItem(hex.EncodeToString(e.Epoch), e.Index, e.Verdict)
	if err != nil {
		return err
	}
	if asJSON {
		line, err := jsonLine(&item)
		if err == nil {
			_, err = out.Write(line)
		}
		return err
	}
	times, rule, process, entry := "", "", "", "not yet in the journal"
	if item.Count > 1 {
		times = fmt.Sprintf(" ×%d", item.Count)
	}
	if item.Rule != "" {
		rule = " by " + evidence.Printable(strings.TrimPrefix(item.Rule, "by ")) // who cut and who detached stand there as "by root"
	}
	if item.PID != 0 || item.Comm != "" {
		process = fmt.Sprintf(", %s[%d]", evidence.Printable(item.Comm), item.PID)
	}
	if len(e.Epoch) > 0 {
		entry = item.name()
	}
	_, err = fmt.Fprintf(out, "%s %s %s %s %s%s (%s%s%s) [%s]\n",
		time.Unix(0, item.Time).Format("15:04:05.000"), evidence.Printable(item.AgentID), item.Decision,
		evidence.Printable(item.Operation), evidence.Printable(item.Target), times,
		evidence.Printable(item.Layer), rule, process, entry)
	return err
}
