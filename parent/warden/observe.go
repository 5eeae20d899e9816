package warden

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/raypher/raypher/draft"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// In mode audit the warden keeps a trace of what enforce would have refused: its own observations, and those that raypherd sends of
// the network. At the end it says what a policy would have to grant.

// lastEvents is how long after the agent's end the network guard may still hand over what it held back: it sweeps each second.
const lastEvents = 1300 * time.Millisecond

// reportLines bounds what the report on the terminal lists; the rest is a number.
const reportLines = 24

// observe begins the trace of an agent in mode audit. In the other modes there is none.
func (w *warden) observe(l *attend.Launch) error {
	if w.permit.Mode != policy.Audit {
		if w.options.Trace != nil || w.options.Report != nil {
			return fmt.Errorf("a trace or report is of a run in mode audit, and this one was granted mode %s: add --dry-run", cmp.Or(w.permit.Mode, policy.Enforce))
		}
		return nil
	}
	h := trace.Header{Argv: l.Argv, Home: l.Home, Started: time.Now().UTC()}
	if w.options.Trace == nil {
		w.recorder = trace.NewRecorder(nil, h)
	} else {
		w.recorder = trace.NewRecorder(w.options.Trace, h)
	}
	w.home = l.Home
	return nil
}

// observer is what the broker tells; nil: nobody.
func (w *warden) observer() func(trace.Entry) {
	if w.recorder == nil {
		return nil
	}
	return w.recorder.Add
}

// hearObserved takes what raypherd saw.
func (w *warden) hearObserved(o *attend.Observed) {
	if w.recorder == nil {
		return
	}
	if o.Lost > 0 {
		w.recorder.Lose(o.Lost, "the network was used faster than it is recorded")
	}
	if len(o.Entry) == 0 {
		return
	}
	var e trace.Entry
	if err := json.Unmarshal(o.Entry, &e); err != nil {
		w.recorder.Lose(1, "raypherd sent what is no entry")
		return
	}
	w.recorder.Add(e)
}

// observedAway notes that nobody hears of the network for a while.
func (w *warden) observedAway() {
	if w.recorder != nil {
		w.recorder.Lose(1, "raypherd was away: what was done on the network meanwhile is not recorded")
	}
}

// awaitLast waits for what the network guard still has to say, where somebody keeps it.
func (w *warden) awaitLast() {
	if w.recorder != nil && (w.options.Trace != nil || w.options.Report != nil) {
		time.Sleep(lastEvents)
	}
}

// endTrace closes the trace and writes the report for programs.
func (w *warden) endTrace() {
	if w.recorder == nil {
		return
	}
	w.recorder.Close()
	if w.options.Report == nil {
		return
	}
	err := json.NewEncoder(w.options.Report).Encode(w.report())
	if err = errors.Join(err, w.options.Report.Close()); err != nil {
		w.lines.Say("the report is not written: %v", err)
	}
}

// auditReport is the report as JSON (docs/learning.md).
type auditReport struct {
	Event   string        `json:"event"`
	Refused []trace.Entry `json:"would_refuse"`
	Times   uint64        `json:"times"`
	Rules   []draft.Rule  `json:"rules"`            // that would allow it
	Beyond  []string      `json:"beyond,omitempty"` // what no rule allows
	Lost    string        `json:"lost,omitempty"`
}

func (w *warden) report() auditReport {
	t := w.recorder.Trace()
	t.Home = w.home
	d := draft.New(t, draft.Options{Risky: draft.Keep})
	r := auditReport{Event: "report", Refused: append([]trace.Entry{}, t.Entries...), Rules: append([]draft.Rule{}, d.Rules...), Beyond: d.Beyond, Lost: d.Lost}
	for _, e := range t.Entries {
		r.Times += e.Count
	}
	return r
}

// sayReport prints the report for the person at the terminal.
func (w *warden) sayReport() {
	if w.recorder == nil || w.options.Output == nil {
		return
	}
	r := w.report()
	if w.options.JSON {
		if line, err := json.Marshal(r); err == nil {
			w.lines.add(string(line))
		}
		return
	}
	if len(r.Refused) == 0 {
		w.lines.Say("audit: enforce would have refused nothing")
		return
	}
	things, times := "different things", "times"
	if len(r.Refused) == 1 {
		things = "thing"
	}
	if r.Times == 1 {
		times = "time"
	}
	w.lines.Say("audit: enforce would have refused %d %s, %d %s; these rules would allow that:", len(r.Refused), things, r.Times, times)
	lines, left := (&draft.Draft{Rules: r.Rules}).Paste(reportLines)
	for _, line := range lines {
		w.lines.Say("  %s", line)
	}
	if left > 0 {
		w.lines.Say("  and %d more rules: --report FILE has all", left)
	}
	for i, line := range r.Beyond {
		if i == reportLines/4 {
			w.lines.Say("  and %d more that no rule allows", len(r.Beyond)-i)
			break
		}
		w.lines.Say("  no rule allows: %s", printable(line))
	}
	if r.Lost != "" {
		w.lines.Say("audit: this is not all: %s", r.Lost)
	}
}

// InheritedFile is a file that the warden was started with, by number; nil for 0.
func InheritedFile(fd int, name string) *os.File {
	if fd <= 0 {
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}
