package main

import (
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// TestPrintEvent: a line says who and which process where there are any, once.
func TestPrintEvent(t *testing.T) {
	for _, c := range []struct {
		name string
		v    journal.Verdict
		want string
	}{
		{"of a process", journal.Verdict{Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/k", Rule: "/k", PID: 7, Comm: "cat", Count: 3},
			" a1 block open-read /k ×3 (broker by /k, cat[7]) [not yet in the journal]\n"},
		{"of an operator", journal.Verdict{Decision: journal.Log, Layer: "operator", Operation: "cut", Target: "everything", Rule: "by root", Count: 1},
			" a1 log cut everything (operator by root) [not yet in the journal]\n"},
		{"of the guard", journal.Verdict{Decision: journal.Log, Layer: "guard", Operation: "count", Target: "1 blocked, 1 recorded", Count: 1},
			" a1 log count 1 blocked, 1 recorded (guard) [not yet in the journal]\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.v.Time, c.v.AgentID = 1, "a1"
			raw, err := journal.EncodeVerdict(c.v)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			if err := printEvent(&out, &parentv1.Event{Verdict: raw}, false); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(out.String(), c.want) {
				t.Errorf("got %q, want %q", out.String(), c.want)
			}
		})
	}
}

// TestPrivateRunsAreNamed: who asks while no raypherd runs is told how the private pairs are asked, each once.
func TestPrivateRunsAreNamed(t *testing.T) {
	got := privateRuns([]string{"/run/raypher/private/a/raypherd.sock", "/run/raypher/private/a/raypherd-relay.sock", "/run/raypher/private/b/raypherd.sock"})
	if want := ": RAYPHER_RUN_DIR=/run/raypher/private/a or RAYPHER_RUN_DIR=/run/raypher/private/b"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := privateRuns(nil); got != "" {
		t.Errorf("of none: %q", got)
	}
}

// TestJSONIsText: what raypherd sends as bytes is printed as what it is, not in base64.
func TestJSONIsText(t *testing.T) {
	var out strings.Builder
	if err := printProposalsJSON(&out, []*parentv1.Proposal{{Name: "n", Path: "/p", Content: []byte("proposal: 1\n")}}); err != nil {
		t.Fatal(err)
	}
	if err := printAppliedJSON(&out, &parentv1.ApplyPolicyReply{Permit: []byte(`{"mode":"enforce"}`)}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"content": "proposal: 1\n"`, `"live": [],`, `"mode": "enforce"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, out.String())
		}
	}
}
