package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func approvalsWatchCommand() *cobra.Command {
	var agent string
	var asJSON bool
	c := &cobra.Command{
		Use:   "watch",
		Short: "Show questions as they come, and answer them at the keyboard",
		Long: `Show the calls that wait for a person as they come, and what became of them, until ctrl-C. At a terminal each one is answered by a key
and enter: y lets the calls that wait go on, r also equal ones as long as the agent lives, n refuses, enter alone leaves it open.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(func(operator parentv1.OperatorClient) error {
				id, err := waitingAgent(c.Context(), operator, agent)
				if err != nil {
					return err
				}
				if asJSON {
					return eachChange(c.Context(), operator, id, func(change *parentv1.ApprovalChange) error {
						line, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(change)
						if err == nil {
							_, err = c.OutOrStdout().Write(append(line, '\n'))
						}
						return err
					})
				}
				w := &watch{out: c.OutOrStdout(), operator: operator, open: map[string]bool{}}
				if in, ok := c.InOrStdin().(*os.File); ok && isTerminal(in) {
					w.lines = readLines(c.InOrStdin())
					w.say("calls that wait for a person are shown here as they come; ctrl-C ends")
				}
				w.strong, w.plain = colours(w.out, "33")
				return w.run(c.Context(), id)
			})
		},
	}
	c.Flags().StringVar(&agent, "agent", "", "only those of the agent with this id, beginning of an id, or name")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return c
}

// readLines reads what a person types. The goroutine ends with the process, as reading a terminal cannot be ended.
func readLines(in io.Reader) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(in); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	return lines
}

// watch is one run of the command. One goroutine uses it.
type watch struct {
	out           io.Writer
	operator      parentv1.OperatorClient
	lines         <-chan string // what is typed; nil: nobody can answer
	strong, plain string        // colours
	open          map[string]bool
	waiting       []*parentv1.ApprovalQuestion // to be answered here, in their order
	answered      string                       // here
	stale         bool                         // what is typed next may be meant for a question that ended meanwhile
	asking        bool                         // the output ends with the prompt
}

func (w *watch) run(ctx context.Context, agent string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, ended := make(chan *parentv1.ApprovalChange), make(chan error, 1)
	go func() {
		ended <- eachChange(ctx, w.operator, agent, func(c *parentv1.ApprovalChange) error {
			select {
			case changes <- c:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	for {
		select {
		case c := <-changes:
			w.changed(c)
		case line, ok := <-w.lines:
			if !ok {
				w.lines = nil
				continue
			}
			if err := w.typed(ctx, line); err != nil {
				return err
			}
		case err := <-ended:
			return err
		}
	}
}

// changed prints a question that came, or what became of one. Whatever is printed, the question that a key would answer stands last: the
// agent chooses what it asks while a person reads.
func (w *watch) changed(c *parentv1.ApprovalChange) {
	q := c.Question
	if c.Over == "" {
		w.open[q.Id] = true
		w.say("%s %s%s wants to %s %s%s (%s[%d], asked by %s, refused in %s) %s",
			time.Unix(0, q.AskedUnixNano).Format("15:04:05"), w.strong, evidence.Printable(nameIn(q.Subject)), evidence.Printable(q.Operation),
			targets(q), w.plain, quoted(q.Comm), q.Pid, evidence.Printable(q.Rule), refusedIn(q, time.Now()), evidence.Printable(q.Id))
		w.waiting = append(w.waiting, q)
		w.prompt()
		return
	}
	delete(w.open, q.Id)
	w.say("%s %s %s", time.Now().Format("15:04:05"), evidence.Printable(q.Id), over(c.Over))
	switch ended := len(w.waiting) > 0 && w.waiting[0].Id == q.Id; {
	case ended && (w.answered == q.Id || w.lines == nil):
		w.next()
		return
	case ended:
		w.stale = true
	}
	w.prompt()
}

// say prints a line of its own.
func (w *watch) say(format string, a ...any) {
	if w.asking {
		fmt.Fprintln(w.out)
		w.asking = false
	}
	fmt.Fprintf(w.out, format+"\n", a...)
}

// over says in words what became of a question.
func over(word string) string {
	switch word {
	case journal.Approve:
		return "was approved"
	case journal.Deny:
		return "was denied"
	case journal.Timeout:
		return "was refused: nobody answered in time"
	}
	return "is over: the process is gone"
}

// next asks about the next question that is still open.
func (w *watch) next() {
	w.waiting = w.waiting[1:]
	for len(w.waiting) > 0 && !w.open[w.waiting[0].Id] {
		w.waiting = w.waiting[1:]
	}
	w.prompt()
}

// prompt asks about the first question that waits here.
func (w *watch) prompt() {
	if w.lines == nil || len(w.waiting) == 0 || w.waiting[0].Id == w.answered {
		return
	}
	q := w.waiting[0]
	w.asking = true
	if w.stale {
		fmt.Fprintf(w.out, "%s is over; enter goes on: ", evidence.Printable(q.Id))
		return
	}
	fmt.Fprintf(w.out, "%s %s %s? [y]es, for this [r]un, [n]o, enter: later: ", evidence.Printable(q.Id), evidence.Printable(q.Operation), targets(q))
}

// typed answers the question that was asked about. The person saw which: after one that ended meanwhile nothing that is typed counts.
func (w *watch) typed(ctx context.Context, line string) error {
	w.asking = false
	if len(w.waiting) == 0 {
		return nil
	}
	if w.stale {
		w.stale = false
		w.next()
		return nil
	}
	q := w.waiting[0]
	request := &parentv1.AnswerRequest{Id: q.Id}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		request.Approve, request.Scope = true, journal.ScopeOnce
	case "r", "run":
		request.Approve, request.Scope = true, journal.ScopeRun
	case "n", "no":
	case "":
		w.next()
		return nil
	default:
		w.prompt()
		return nil
	}
	w.answered = q.Id
	_, err := w.operator.Answer(ctx, request)
	if said, ok := status.FromError(err); err != nil && ok && !errors.Is(err, context.Canceled) {
		w.say("%s: %s", evidence.Printable(q.Id), said.Message())
		w.next()
		return nil
	}
	return err // its end is told by the stream
}
