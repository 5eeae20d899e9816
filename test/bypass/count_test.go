package bypass

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/examples/stage"
)

// entry is one of the journal, of an agent.
type entry struct {
	stage.Evidence
	AgentID string `json:"agent_id"`
}

// journal lists the entries of an agent.
func (w *world) journal(agent string) (list []entry) {
	w.t.Helper()
	cmd := w.CLI("evidence", "list", "--json", "--state-dir", w.Pair.State)
	out, err := cmd.Output()
	w.must(err)
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var one entry
		w.must(decoder.Decode(&one))
		if one.AgentID == agent {
			list = append(list, one)
		}
	}
	return list
}

// TestBlocksAreCounted: what the guard counted where it refused is journalled against what was recorded, to the last one: calls that
// the broker refused, and more datagrams at once than the network guard tells one by one.
func TestBlocksAreCounted(t *testing.T) {
	asUsers(t, func(w *world) {
		const opens, datagrams = 700, 3000
		answers, a := w.played(narrow, fmt.Sprintf("open-many %d FOLDER/no/file", opens), fmt.Sprintf("send-many %d", datagrams))
		verdicts, err := a.Verdicts()
		w.must(err)
		if answers[0] != "ok" || answers[1] != "ok" || len(verdicts) == 0 {
			w.t.Fatalf("%q, and %d verdicts", answers, len(verdicts))
		}
		var counted string
		var blocked, lost, missing, total, recorded uint64
		for end := time.Now().Add(limit / 3); ; time.Sleep(100 * time.Millisecond) {
			counted, blocked, lost = "", 0, 0
			for _, one := range w.journal(verdicts[0].AgentID) {
				switch {
				case one.Operation == "count":
					counted = one.Target
				case one.Operation == "lost":
					lost += uint64(one.Count)
				case one.Decision == "block":
					blocked += uint64(one.Count)
				}
			}
			_, _ = fmt.Sscanf(counted, "%d blocked, %d recorded", &total, &recorded)
			missing = total - recorded
			if counted != "" && blocked == recorded && lost == missing || time.Now().After(end) {
				break
			}
		}
		if total != opens+datagrams || strings.Contains(counted, "did not say") {
			w.t.Errorf("the guard says %q, want %d", counted, opens+datagrams)
		}
		if blocked != recorded || lost != missing {
			w.t.Errorf("%q, but the journal has entries for %d blocked and %d lost", counted, blocked, lost)
		}
	})
}
