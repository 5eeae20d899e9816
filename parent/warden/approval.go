package warden

import (
	"path/filepath"
	"strings"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/broker"
	"github.com/raypher/raypher/parent/instance"
)

// asked passes a question of the broker on to raypherd.
func (w *warden) asked(q broker.Question) {
	if q.Known {
		w.line.send(&attend.WardenMessage{Joined: &attend.Joined{ID: q.ID, Calls: uint32(q.Calls)}})
		return
	}
	question := journal.Question{
		Operation: q.Operation, Target: q.Target, Other: q.Other, Rule: q.Rule, PID: q.PID, Comm: q.Comm,
	}
	raw, err := journal.EncodeQuestion(question)
	if err != nil {
		w.lines.Say("a call that needs a person cannot be asked about and waits: %v", err)
		return
	}
	w.line.send(&attend.WardenMessage{Asked: &attend.Asked{ID: q.ID, Question: raw, AskedBoottime: q.Asked, Calls: uint32(q.Calls)}})
}

// waits tells the person at the terminal what answers a question.
func (w *warden) waits(m *attend.Waits) {
	if q, err := journal.DecodeQuestion(m.Question); err == nil {
		w.lines.Question(broker.QuestionName(w.granted.AgentID, m.ID), filepath.Dir(w.granted.AgentSocket), q)
	}
}

// askAgain tells a raypherd that may not know them which questions are open.
func (w *warden) askAgain() {
	for _, q := range w.broker.Questions() {
		w.asked(q)
	}
}

func (w *warden) withdrawn(id uint64) {
	w.line.send(&attend.WardenMessage{Withdrawn: &attend.Withdrawn{ID: id}})
}

// Question prints that a call waits for a person, and the command that answers it. run is the run folder of the raypherd to tell.
func (l *Lines) Question(id, run string, q journal.Question) {
	if l.json {
		l.object(struct {
			Event string `json:"event"`
			ID    string `json:"id"`
			journal.Question
		}{"question", id, q})
		return
	}
	target := printableTarget(journal.Verdict{Layer: "broker", Operation: q.Operation, Target: q.Target})
	if q.Other != "" {
		target += " " + printableTarget(journal.Verdict{Layer: "broker", Operation: q.Operation, Target: q.Other})
	}
	l.add("raypher: waiting for approval: " + q.Operation + " " + target + ": " + whom(run) + "raypher approvals approve " + id)
}

// whom is what a command for a raypherd begins with, for a shell.
func whom(run string) string {
	if run == instance.DefaultRun {
		return ""
	}
	return instance.RunVariable + "='" + strings.ReplaceAll(run, "'", `'\''`) + "' "
}
