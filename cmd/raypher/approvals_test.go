package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func TestTheQuestion(t *testing.T) {
	questions := []*parentv1.ApprovalQuestion{
		{Id: "3f2a-1", AgentId: "3f2a"}, {Id: "3f2a-12", AgentId: "3f2a"}, {Id: "3b00-1", AgentId: "3b00"},
	}
	for word, want := range map[string]string{
		"3f2a-1": "3f2a-1", "3f-1": "3f2a-1", "3b-1": "3b00-1", "3-12": "3f2a-12",
		"3-1": "", "3f2a": "", "3f2a-2": "", "": "", "-": "", "1": "",
	} {
		if got, err := theQuestion(word, questions); got != want || (err == nil) != (want != "") {
			t.Errorf("%q means %q (%v), want %q", word, got, err, want)
		}
	}
}

// TestQuestionsArePrintable: what the agent chose cannot speak to the terminal, nor pass for another line.
func TestQuestionsArePrintable(t *testing.T) {
	q := &parentv1.ApprovalQuestion{
		Id: "a-1", AgentId: "a", Operation: "rename", Target: "/w/\x1b[2J", Other: "/w/b\nfake", Comm: "x\x1b]0;", Rule: "/w/**",
	}
	var table, shown bytes.Buffer
	if err := printQuestions(&table, []*parentv1.ApprovalQuestion{q}, time.Now()); err != nil {
		t.Fatal(err)
	}
	w := &watch{out: &shown, open: map[string]bool{}, lines: make(chan string)}
	w.changed(&parentv1.ApprovalChange{Question: q})
	for _, text := range []string{table.String(), shown.String()} {
		if strings.Contains(text, "\x1b") || strings.Contains(text, "\nfake") || !strings.Contains(text, "rename") || !strings.Contains(text, " to ") {
			t.Errorf("%q", text)
		}
	}
}

// TestQuestionsAreNoSentences: no name passes for several, or for the words around it.
func TestQuestionsAreNoSentences(t *testing.T) {
	for name, want := range map[string]string{
		"/w/a": "/w/a", "10.0.0.1:443/tcp": "10.0.0.1:443/tcp", "[2001:db8::1]:443/tcp": "[2001:db8::1]:443/tcp", "/w/größe": "/w/größe",
		"/w/a to /w/b": `"/w/a to /w/b"`, "/w/a? [y]es": `"/w/a? [y]es"`, "sh[1],": `"sh[1],"`, "/w/\u3000a": `"/w/\u3000a"`,
		"/w/\u202egpj": `"/w/\u202egpj"`, "/w/\n": `"/w/\n"`, `/w/\n`: `"/w/\\n"`, `/w/"`: `"/w/\""`, "": "",
	} {
		if got := quoted(name); got != want {
			t.Errorf("%q is shown as %s, want %s", name, got, want)
		}
	}
	q := &parentv1.ApprovalQuestion{Operation: "rename", Target: "/w/a to /w/b", Other: "/w/c"}
	if got := targets(q); got != `"/w/a to /w/b" to /w/c` {
		t.Error(got)
	}
}

// TestWatchAsksLast: what a key would answer is the last thing on the terminal, whatever else is asked meanwhile.
func TestWatchAsksLast(t *testing.T) {
	var out bytes.Buffer
	w := &watch{out: &out, operator: &answering{}, open: map[string]bool{}, lines: make(chan string)}
	change := func(id, over string) {
		w.changed(&parentv1.ApprovalChange{Over: over, Question: &parentv1.ApprovalQuestion{Id: id, Operation: "unlink", Target: "/w/" + id}})
	}
	const one, two = "a-1 unlink /w/a-1? [y]es, for this [r]un, [n]o, enter: later: ", "a-2 unlink /w/a-2? [y]es, for this [r]un, [n]o, enter: later: "
	typed := func(line string) {
		if err := w.typed(t.Context(), line); err != nil {
			t.Fatal(err)
		}
	}
	for i, step := range []struct {
		do   func()
		last string
	}{
		{func() { change("a-1", "") }, one},
		{func() { change("a-2", "") }, one},
		{func() { change("a-3", "") }, one},
		{func() { change("a-3", "gone") }, one},
		{func() { typed("what") }, one},
		{func() { change("a-1", "gone") }, "a-1 is over; enter goes on: "},
		{func() { change("a-4", "") }, "a-1 is over; enter goes on: "},
		{func() { typed("y") }, two},
		{func() { typed("y") }, ""}, // on its way
		{func() { change("a-5", "") }, ""},
		{func() { change("a-2", "approve") }, "a-4 unlink /w/a-4? [y]es, for this [r]un, [n]o, enter: later: "},
	} {
		out.WriteString("\n") // as a person's enter, or what stood there before
		step.do()
		lines := strings.Split(out.String(), "\n")
		if last := lines[len(lines)-1]; last != step.last {
			t.Errorf("step %d ends with %q, want %q", i, last, step.last)
		}
	}
	if strings.Contains(out.String(), "later: 0") || strings.Contains(out.String(), "later: 1") || strings.Contains(out.String(), "later: 2") {
		t.Errorf("a line follows a prompt: %q", &out)
	}
}

// answering takes the answers of a watch.
type answering struct {
	parentv1.OperatorClient
	got  []string
	fail error
}

func (a *answering) Answer(_ context.Context, r *parentv1.AnswerRequest, _ ...grpc.CallOption) (*parentv1.AnswerReply, error) {
	said := "deny"
	if r.Approve {
		said = "approve " + r.Scope
	}
	a.got = append(a.got, r.Id+" "+said)
	return &parentv1.AnswerReply{}, a.fail
}

// TestWatchAnswersWhatWasShown: a key is for the question that was asked about, and for none that takes its place meanwhile.
func TestWatchAnswersWhatWasShown(t *testing.T) {
	operator := &answering{}
	var out bytes.Buffer
	w := &watch{out: &out, operator: operator, open: map[string]bool{}, lines: make(chan string)}
	came := func(id string) { w.changed(&parentv1.ApprovalChange{Question: &parentv1.ApprovalQuestion{Id: id}}) }
	over := func(id string) {
		w.changed(&parentv1.ApprovalChange{Question: &parentv1.ApprovalQuestion{Id: id}, Over: "approve"})
	}
	typed := func(line string) {
		t.Helper()
		if err := w.typed(t.Context(), line); err != nil {
			t.Fatal(err)
		}
	}
	typed("y") // nothing is asked
	for _, id := range []string{"a-1", "a-2", "a-3", "a-4", "a-5", "a-6"} {
		came(id)
	}
	typed("what")
	typed("y")
	over("a-1")
	typed("r")
	over("a-2")
	over("a-3") // answered elsewhere while it is asked about here
	typed("y")  // meant for a-3: it is for nothing
	typed("")   // a-4: later
	operator.fail = status.Error(codes.NotFound, "it was answered")
	typed("n") // a-5
	operator.fail = nil
	typed("N") // a-6
	if got, want := strings.Join(operator.got, ", "), "a-1 approve once, a-2 approve run, a-5 deny, a-6 deny"; got != want {
		t.Errorf("answers %s, want %s\n%s", got, want, &out)
	}
}
