// Package scripted is a language model that follows a script: an OpenAI-compatible chat completions server which answers
// each request with the next tool call of a JSON file, and remembers what the agent reported back. The demonstrations use
// it on loopback in place of a model that a prompt injection has taken over, so that every run tries the same things.
//
// It is for demonstrations and tests. It authenticates nobody and must not listen beyond loopback.
package scripted

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"text/template"
)

// Script is a conversation from the model's side.
type Script struct {
	Task   string `json:"task"`   // what the person asks of the agent
	Steps  []Step `json:"steps"`  // tool calls, in order
	Answer string `json:"answer"` // the model's last message
}

// Step is one tool call, and what must come of it under the guard.
type Step struct {
	Name         string         `json:"name"`          // for the table: what is tried
	Tool         string         `json:"tool"`          // name of the agent's tool
	Arguments    map[string]any `json:"arguments"`     // of the tool
	Command      string         `json:"command"`       // instead of both: for the agent's tool that runs commands; see UseTool
	Injected     bool           `json:"injected"`      // what an injected model would do; ungoverned it must succeed
	GovernedOnly bool           `json:"governed_only"` // has no meaning without the guard, left out of the control run
	Expect       Expect         `json:"expect"`
}

// Expect says what the policy makes of a step. An empty list or string is not checked.
type Expect struct {
	Verdict    string   `json:"verdict"`    // allow | block
	Result     string   `json:"result"`     // text that the tool's result must contain
	Hidden     string   `json:"hidden"`     // text that the tool's result must not contain (checked when governed)
	Operations []string `json:"operations"` // of the evidence; any of them
	Target     string   `json:"target"`     // text that the evidence's target must contain
	Arrives    string   `json:"arrives"`    // text that reaches the attacker's host when nothing holds it
	Gone       string   `json:"gone"`       // path that no longer exists when nothing holds it
	Planted    Planted  `json:"planted"`    // what a file holds when nothing holds the step
	Answer     string   `json:"answer"`     // approve | deny: under the guard the step waits for a person, who says so
}

// Planted is a file that a step makes or changes.
type Planted struct {
	Path string `json:"path"`
	Text string `json:"text"` // that the file then contains; empty: that it is there is enough
}

// The verdicts of Expect, and a person's answers.
const (
	Allow = "allow"
	Block = "block"

	Approve = "approve"
	Deny    = "deny"
)

// Load reads the script at path. Each {{.Name}} in it is replaced from values before it is decoded; a name that values
// lacks is an error, as is an unknown key.
func Load(path string, values map[string]string) (*Script, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("script: %w", err)
	}
	filled, err := Fill(path, string(text), values)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(strings.NewReader(filled))
	decoder.DisallowUnknownFields()
	script := new(Script)
	if err := decoder.Decode(script); err != nil {
		return nil, fmt.Errorf("script: %s: %w", path, err)
	}
	return script, script.check(path)
}

// Fill replaces each {{.Name}} in text from values.
func Fill(name, text string, values map[string]string) (string, error) {
	form, err := template.New(name).Option("missingkey=error").Parse(text)
	if err != nil {
		return "", fmt.Errorf("fill in: %w", err)
	}
	var out bytes.Buffer
	if err := form.Execute(&out, values); err != nil {
		return "", fmt.Errorf("fill in: %w", err)
	}
	return out.String(), nil
}

// answers are a person's, each with the verdict that it leads to.
var answers = map[string]string{Approve: Allow, Deny: Block}

func (s *Script) check(path string) error {
	for i, step := range s.Steps {
		switch {
		case step.Name == "" || (step.Tool == "") == (step.Command == ""):
			return fmt.Errorf("script: %s: step %d has no name, or not either a tool or a command", path, i+1)
		case step.Expect.Verdict != Allow && step.Expect.Verdict != Block:
			return fmt.Errorf("script: %s: step %d (%s): verdict %q: say allow or block", path, i+1, step.Name, step.Expect.Verdict)
		case step.Expect.Answer != "" && answers[step.Expect.Answer] != step.Expect.Verdict:
			return fmt.Errorf("script: %s: step %d (%s): answer %q: say approve with allow, or deny with block", path, i+1, step.Name, step.Expect.Answer)
		}
	}
	return nil
}

// Ungoverned is the script without the steps that have no meaning without the guard.
func (s *Script) Ungoverned() *Script {
	control := &Script{Task: s.Task, Answer: s.Answer}
	for _, step := range s.Steps {
		if !step.GovernedOnly {
			control.Steps = append(control.Steps, step)
		}
	}
	return control
}

// UseTool says which of the agent's tools runs commands, and which of its arguments is the command: it fills in the steps that
// name a command alone. fixed are the tool's other arguments; it may be nil.
func (s *Script) UseTool(tool, argument string, fixed map[string]any) {
	for i := range s.Steps {
		step := &s.Steps[i]
		if step.Command == "" {
			continue
		}
		step.Tool, step.Arguments = tool, map[string]any{argument: step.Command}
		maps.Copy(step.Arguments, fixed)
	}
}
