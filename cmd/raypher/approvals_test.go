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
