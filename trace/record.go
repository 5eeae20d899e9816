package trace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"
)

// Recorder keeps a trace while its run goes on. It is safe for concurrent use and never blocks but for its writer.
type Recorder struct {
	mutex  sync.Mutex
	out    io.Writer // nil: in memory alone
	counts map[Entry]uint64
	bytes  int
	lost   uint64
	why    string
}

// NewRecorder begins a trace. What is recorded goes to out at once, so that a recorder that is killed leaves what it has seen; out may be nil.
func NewRecorder(out io.Writer, h Header) *Recorder {
	r := &Recorder{out: out, counts: map[Entry]uint64{}}
	h.Version = Version
	r.write(h)
	return r
}

// Add records an entry, unless there is no room for it: then it is counted as lost.
func (r *Recorder) Add(e Entry) {
	count := max(e.Count, 1)
	e = e.key()
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if _, known := r.counts[e]; known {
		r.counts[e] += count
		return
	}
	switch {
	case len(r.counts) >= MaxEntries || r.bytes+e.size() > maxBytes:
		r.lose(count, fmt.Sprintf("more than %d different things were done", len(r.counts)))
		return
	case !writable(&e):
		r.lose(count, "a name is not UTF-8, and no policy can say it")
		return
	}
	r.counts[e] = count
	r.bytes += e.size()
	r.write(e)
}

// writable reports whether JSON keeps every name as it is.
func writable(e *Entry) bool {
	for _, text := range []string{e.Path, e.To, e.Target, e.Rule, e.Name, e.Address} {
		if !utf8.ValidString(text) {
			return false
		}
	}
	return true
}

// Lose counts what was done and will never be recorded.
func (r *Recorder) Lose(n uint64, why string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.lose(n, why)
}

func (r *Recorder) lose(n uint64, why string) {
	r.lost += n
	if r.why == "" {
		r.why = why
	}
}

// write writes a line; r.mutex is held, or nobody else has r yet. Where it cannot, the trace will have no end.
func (r *Recorder) write(line any) {
	if r.out == nil {
		return
	}
	if err := writeLine(r.out, line); err != nil {
		r.out = nil
	}
}

// Trace is what was recorded so far, the most frequent first.
func (r *Recorder) Trace() *Trace {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return &Trace{Entries: sorted(r.counts), End: &End{Entries: len(r.counts), Lost: r.lost, Why: r.why}}
}

// Close writes the end.
func (r *Recorder) Close() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.write(endLine{&End{Entries: len(r.counts), Lost: r.lost, Why: r.why}})
	r.out = nil
}

// endLine is the last line.
type endLine struct {
	End *End `json:"end"`
}

func writeLine(out io.Writer, value any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return err
	}
	_, err := out.Write(b.Bytes())
	return err
}
