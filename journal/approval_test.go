package journal

import (
	"reflect"
	"strings"
	"testing"
)

func approval(change func(*Approval)) *Approval {
	a := &Approval{
		Time: 2, Asked: 1, AgentID: "a1", Subject: "spiffe://x/ns/n/agent/a", VisaID: []byte{1},
		Question: Question{Operation: "rename", Target: "/a", Other: "/b", Rule: "/a", PID: 3, Comm: "mv"},
		Decision: Approve, Scope: ScopeOnce, Who: &Person{UID: 1000, User: "alice", PID: 4},
	}
	if change != nil {
		change(a)
	}
	return a
}

func TestApproval(t *testing.T) {
	for name, a := range map[string]*Approval{
		"once":    approval(nil),
		"run":     approval(func(a *Approval) { a.Scope, a.Proposed = ScopeRun, true }),
		"15m":     approval(func(a *Approval) { a.Scope, a.Seconds = ScopeDuration, 900 }),
		"deny":    approval(func(a *Approval) { a.Decision = Deny }),
		"timeout": approval(func(a *Approval) { a.Decision, a.Who, a.VisaID = Timeout, nil, nil }),
	} {
		raw, err := a.Encode()
		if err != nil {
			t.Fatal(name, err)
		}
		if again, err := DecodeApproval(raw); err != nil || !reflect.DeepEqual(a, again) {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
	for name, change := range map[string]func(*Approval){
		"nobody approves":          func(a *Approval) { a.Who = nil },
		"nobody denies":            func(a *Approval) { a.Decision, a.Who = Deny, nil },
		"somebody times out":       func(a *Approval) { a.Decision = Timeout },
		"another decision":         func(a *Approval) { a.Decision = "maybe" },
		"another scope":            func(a *Approval) { a.Scope = "always" },
		"a duration of nothing":    func(a *Approval) { a.Scope = ScopeDuration },
		"seconds of a run":         func(a *Approval) { a.Scope, a.Seconds = ScopeRun, 5 },
		"a refusal of a run":       func(a *Approval) { a.Decision, a.Scope = Deny, ScopeRun },
		"a refusal that proposes":  func(a *Approval) { a.Decision, a.Proposed = Deny, true },
		"no agent":                 func(a *Approval) { a.AgentID = "" },
		"a question about nothing": func(a *Approval) { a.Question.Target = "" },
		"a long user":              func(a *Approval) { a.Who.User = strings.Repeat("x", MaxVerdictText+1) },
		"a long target":            func(a *Approval) { a.Question.Target = strings.Repeat("x", MaxTarget+1) },
	} {
		if _, err := approval(change).Encode(); err == nil {
			t.Errorf("%s is encoded", name)
		}
	}
}

func TestQuestionIsCut(t *testing.T) {
	raw, err := EncodeQuestion(Question{Operation: "open-read", Target: strings.Repeat("/\xff", MaxTarget), Comm: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if q, err := DecodeQuestion(raw); err != nil || len(q.Target) > MaxTarget || !strings.Contains(q.Target, "\uFFFD") {
		t.Errorf("%d bytes, %v", len(q.Target), err)
	}
	if _, err := EncodeQuestion(Question{Operation: "open-read"}); err == nil {
		t.Error("a question about nothing")
	}
}

func FuzzDecodeApproval(f *testing.F) {
	for _, a := range []*Approval{approval(nil), approval(func(a *Approval) { a.Decision, a.Who = Timeout, nil })} {
		raw, _ := a.Encode()
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if q, err := DecodeQuestion(raw); err == nil {
			if again, err := EncodeQuestion(q); err != nil || string(again) != string(raw) {
				t.Errorf("%+v encodes to %x, not %x (%v)", q, again, raw, err)
			}
		}
		a, err := DecodeApproval(raw)
		if err != nil {
			return
		}
		if again, err := a.Encode(); err != nil || string(again) != string(raw) {
			t.Errorf("%+v encodes to %x, not %x (%v)", a, again, raw, err)
		}
	})
}
