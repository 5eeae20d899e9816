package stage

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/raypher/raypher/examples/scripted"
)

// operator is the person who answers what agents wait for, outside of them, with the CLI.
type operator struct {
	cli   *CLI
	out   io.Writer
	steps []scripted.Step // that have an answer, and got none yet

	problems []string // answers writes them
}

// question is a line of `raypher approvals watch --json`.
type question struct {
	Question struct {
		ID        string `json:"id"`
		Operation string `json:"operation"`
		Target    string `json:"target"`
	} `json:"question"`
	Over string `json:"over"` // empty: it is open
}

func newOperator(cli *CLI, script *scripted.Script, out io.Writer) *operator {
	o := &operator{cli: cli, out: out}
	for _, step := range script.Steps {
		if step.Expect.Answer != "" {
			o.steps = append(o.steps, step)
		}
	}
	return o
}

// attend answers questions until leave is called, which returns what went otherwise than the script says.
func (o *operator) attend(ctx context.Context) (leave func() []string) {
	ctx, cancel := context.WithCancel(ctx)
	left := make(chan struct{})
	go func() {
		defer close(left)
		o.answers(ctx)
	}()
	return func() []string {
		cancel()
		<-left
		return o.problems
	}
}

// answers answers each question as the script says until ctx ends. Who asks what no step says is denied.
func (o *operator) answers(ctx context.Context) {
	if len(o.steps) == 0 {
		return
	}
	watch := exec.CommandContext(ctx, o.cli.Program, "approvals", "watch", "--json")
	watch.Env = o.cli.Environment
	lines, err := watch.StdoutPipe()
	if err == nil {
		err = watch.Start()
	}
	if err != nil {
		o.problems = append(o.problems, fmt.Sprintf("raypher approvals watch: %v", err))
		return
	}
	for scanner := bufio.NewScanner(lines); scanner.Scan(); {
		var q question
		if err := json.Unmarshal(scanner.Bytes(), &q); err != nil {
			o.problems = append(o.problems, fmt.Sprintf("raypher approvals watch: %v", err))
		} else if q.Over == "" {
			o.answer(ctx, &q)
		}
	}
	_ = watch.Wait() // ended by ctx
	for _, step := range o.steps {
		o.problems = append(o.problems, "nobody was asked: "+step.Name)
	}
}

func (o *operator) answer(ctx context.Context, q *question) {
	said := scripted.Deny
	for i, step := range o.steps {
		if !strings.Contains(q.Question.Target, step.Expect.Target) {
			continue
		}
		said = step.Expect.Answer
		// Held: what is asked about has not been done.
		if planted(step.Expect.Planted) {
			o.problems = append(o.problems, step.Name+": it did not wait for the answer")
		}
		o.steps = append(o.steps[:i], o.steps[i+1:]...)
		break
	}
	fmt.Fprintf(o.out, "a person is asked: %s %s; says %s\n", q.Question.Operation, q.Question.Target, said)
	if _, err := o.cli.run(ctx, false, "approvals", said, q.Question.ID); err != nil {
		o.problems = append(o.problems, err.Error())
	}
}
