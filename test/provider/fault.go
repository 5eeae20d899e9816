package provider

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/raypher/raypher/examples/scripted"
)

// Fault is what goes wrong with a call. The empty one is none.
type Fault string

// Faults. A user's words can hold one, as "!breaks"; see Obey.
const (
	Limits   Fault = "limits"   // 429 with Retry-After; not charged
	Refuses  Fault = "refuses"  // 400; not charged
	Overload Fault = "overload" // 529; not charged
	Fails    Fault = "fails"    // 500; charged
	Breaks   Fault = "breaks"   // the answer breaks off in its middle; charged
	Silent   Fault = "silent"   // it does not say what was used; charged
	Late     Fault = "late"     // a stream says only at its end what was used
	Slow     Fault = "slow"     // it takes its time for each part of an answer
)

var faults = []Fault{Limits, Refuses, Overload, Fails, Breaks, Silent, Late, Slow}

// retryAfter is what a limit asks a client to wait, in seconds.
const retryAfter = "1"

// refusal is the status of a call that is not worked on; 0: it is.
func (f Fault) refusal() (status int, header map[string]string) {
	switch f {
	case Limits:
		return http.StatusTooManyRequests, map[string]string{"Retry-After": retryAfter}
	case Refuses:
		return http.StatusBadRequest, nil
	case Overload:
		return 529, nil
	default:
		return 0, nil
	}
}

// Obey does what the user says last: it repeats the words, calls a tool for words as `!call NAME {"a":1}`, and has the fault that is
// among them behind a "!". After the result of a tool it says what that was.
func Obey(turn *scripted.Turn) (scripted.Reply, Fault) {
	var fault Fault
	for _, f := range faults {
		if strings.Contains(turn.Text, "!"+string(f)) {
			fault = f
		}
	}
	if n := len(turn.Results); n > 0 {
		return scripted.Reply{Text: "the tool said " + turn.Results[n-1].Text}, fault
	}
	if _, call, ok := strings.Cut(turn.Text, "!call "); ok {
		name, arguments, _ := strings.Cut(call, " ")
		if json.Valid([]byte(arguments)) {
			return scripted.Reply{Calls: []scripted.ToolCall{{ID: "callscripted0000", Tool: name, Arguments: arguments}}}, fault
		}
	}
	return scripted.Reply{Text: "you said " + turn.Text}, fault
}

// slowness is between the parts of a slow answer.
const slowness = 200 * time.Millisecond

// wire hands an answer out in the parts that it is written in, with a fault.
type wire struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	gone  <-chan struct{} // closed when nobody listens any more
	fault Fault
	parts int
}

func (o *wire) Write(p []byte) (int, error) {
	o.parts++
	if o.fault == Slow {
		select {
		case <-o.gone:
		case <-time.After(slowness):
		}
	}
	if o.fault == Breaks && (o.parts > 2 || !strings.HasPrefix(string(p), "data:") && !strings.HasPrefix(string(p), "event:")) {
		_, _ = o.w.Write(p[:len(p)/2])
		_ = o.flush.Flush()
		panic(http.ErrAbortHandler)
	}
	n, err := o.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, o.flush.Flush()
}
