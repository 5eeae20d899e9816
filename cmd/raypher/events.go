package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/evidence"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func eventsCommand() *cobra.Command {
	var request parentv1.EventsRequest
	var asJSON bool
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what the guard refused, as it happens",
		Long: `Show the latest verdicts of the guard, of all agents or of one; with --follow also those that come, until ctrl-C.

Each line is in the journal already when it has an entry in brackets: 'raypher evidence export' proves it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(func(operator parentv1.OperatorClient) error {
				stream, err := operator.Events(c.Context(), &request)
				if err != nil {
					return err
				}
				for {
					e, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					if err := printEvent(c.OutOrStdout(), e, asJSON); err != nil {
						return err
					}
				}
			})
		},
	}
	c.Flags().BoolVarP(&request.Follow, "follow", "f", false, "go on with what comes")
	c.Flags().StringVar(&request.AgentId, "agent", "", "only this agent's")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return c
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
	times, rule, entry := "", "", "not yet in the journal"
	if item.Count > 1 {
		times = fmt.Sprintf(" ×%d", item.Count)
	}
	if item.Rule != "" {
		rule = " by " + evidence.Printable(item.Rule)
	}
	if len(e.Epoch) > 0 {
		entry = item.name()
	}
	_, err = fmt.Fprintf(out, "%s %s %s %s %s%s (%s%s, %s[%d]) [%s]\n",
		time.Unix(0, item.Time).Format("15:04:05.000"), evidence.Printable(item.AgentID), item.Decision,
		evidence.Printable(item.Operation), evidence.Printable(item.Target), times,
		evidence.Printable(item.Layer), rule, evidence.Printable(item.Comm), item.PID, entry)
	return err
}
