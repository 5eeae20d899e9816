package agents

import (
	"testing"

	"github.com/raypher/raypher/parent/attend"
)

// TestHangUp: the connection of a warden that has said everything ends when what the kernel refused last is told, and not before, in
// whichever order both come; what waits for it is still sent.
func TestHangUp(t *testing.T) {
	for name, steps := range map[string][2]func(*Agent){
		"the agent ends first":        {(*Agent).toldAll, (*Agent).Silent},
		"the warden is silent before": {(*Agent).Silent, (*Agent).toldAll},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{line: newOutbox()}
			steps[0](a)
			if _, closed := a.line.take(); closed {
				t.Error("closed too early")
			}
			a.line.show(&attend.ParentMessage{Seen: &attend.Seen{}})
			steps[1](a)
			if messages, closed := a.line.take(); !closed || len(messages) != 1 {
				t.Errorf("closed %v, with %d messages", closed, len(messages))
			}
		})
	}
}
