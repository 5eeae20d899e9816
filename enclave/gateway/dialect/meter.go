package dialect

import (
	"bytes"
	"github.com/go-json-experiment/json/jsontext"
	"mime"
)

// Bounds of what is kept of an answer to find its usage. What exceeds them is handed on, and leaves no usage.
const (
	maxAnswer = 16 << 20 // bytes of an answer that is no stream of events
	maxEvent  = 4 << 20  // bytes of one event
)

// Meter reads an answer while it passes.
type Meter struct {
	call   *Call
	events bool // server-sent events; otherwise one JSON document

	usage       Usage
	found, last bool
	lost        bool // something was too large, or could not be read: there will be no usage

	body []byte // of a document
	line []byte // of events: the line that has begun
	data []byte // what the event that has begun says
	held []byte // that event as it came, where events may be taken out
	out  []byte
}

// Meter returns what meters the answer to a call, whose status is one of success.
func (c *Call) Meter(contentType string) *Meter {
	media, _, _ := mime.ParseMediaType(contentType)
	return &Meter{call: c, events: media == "text/event-stream"}
}

// Events says that the answer is a stream of events. A document says itself whether it is whole.
func (m *Meter) Events() bool { return m.events }

// Unchanged says that all of the answer is handed on as it comes.
func (m *Meter) Unchanged() bool { return !m.events || !m.call.hide }

// Feed takes the next bytes of the answer and returns those to hand on, which are valid until the next call. All are handed on as
// they come, except a stream's last chunk whose usage the client did not ask for: where there may be one, whole events are.
func (m *Meter) Feed(p []byte) []byte {
	switch {
	case m.lost || m.call.protocol == nil:
		return p
	case !m.events:
		if len(m.body)+len(p) > maxAnswer {
			m.lose()
			return p
		}
		m.body = append(m.body, p...)
		return p
	}
	m.out = m.out[:0]
	for rest := p; len(rest) > 0 && !m.lost; {
		piece := rest
		end := bytes.IndexByte(rest, '\n')
		if end >= 0 {
			piece = rest[:end+1]
		}
		rest = rest[len(piece):]
		m.take(piece, end >= 0)
		if m.lost {
			m.out = append(append(m.out, m.held...), rest...)
			m.held = nil
		}
	}
	if m.call.hide {
		return m.out
	}
	return p
}

// take takes a piece of a line.
func (m *Meter) take(piece []byte, ends bool) {
	if m.call.hide {
		m.held = append(m.held, piece...)
	}
	m.line = append(m.line, piece...)
	if len(m.line)+len(m.data) > maxEvent {
		m.lose()
		return
	}
	if !ends {
		return
	}
	line := bytes.TrimRight(m.line, "\r\n")
	if len(line) == 0 {
		m.event()
	} else if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
		if len(m.data) > 0 {
			m.data = append(m.data, '\n')
		}
		m.data = append(m.data, bytes.TrimPrefix(data, []byte(" "))...)
	}
	m.line = m.line[:0]
}

// event ends an event.
func (m *Meter) event() {
	data := m.data
	m.data = m.data[:0]
	if bytes.Equal(data, []byte("[DONE]")) {
		m.last = true
	}
	// Most events are a few words of text, and need not be parsed.
	named := bytes.Contains(data, []byte("usage"))
	if named || bytes.Contains(data, []byte("message_stop")) {
		m.message(data)
	}
	if !m.call.hide {
		return
	}
	if named && !m.lost && onlyUsage(data) {
		m.held = m.held[:0]
	}
	m.out = append(m.out, m.held...)
	m.held = m.held[:0]
}

func (m *Meter) message(data []byte) {
	found, last, err := m.call.protocol.usage(&m.usage, data)
	if err != nil {
		m.lost = true
		return
	}
	m.found, m.last = m.found || found, m.last || last
}

// lose gives up on usage; what was kept for it goes.
func (m *Meter) lose() { m.lost, m.body, m.line, m.data = true, nil, nil, nil }

// Kept is how many bytes of the answer are kept.
func (m *Meter) Kept() int64 { return int64(len(m.body) + len(m.line) + len(m.data) + len(m.held)) }

// Forget gives up on usage, and returns what is still to be handed on.
func (m *Meter) Forget() []byte {
	held := m.held
	m.lose()
	m.held = nil
	return held
}

// End returns what is still to be handed on, and the usage. whole: the answer came to its end, and was not cut off. ok is false
// where what was used is not known: then the whole reservation stays.
func (m *Meter) End(whole bool) (rest []byte, usage Usage, ok bool) {
	switch {
	case m.call.protocol == nil:
		return nil, Usage{}, whole
	case m.lost:
		return nil, Usage{}, false
	case m.events:
		if len(m.line) > 0 {
			m.take([]byte("\n"), true)
			if n := len(m.held); n > 0 { // a line end that did not come is not handed on
				m.held = m.held[:n-1]
			}
		}
		m.out = m.out[:0]
		m.event()
		rest = m.out
	case whole:
		m.document()
	}
	if m.lost || !m.found || !m.last && !whole {
		return rest, Usage{}, false
	}
	return rest, m.usage, true
}

// document reads a whole answer: an object or, as Gemini streams without events, an array of them.
func (m *Meter) document() {
	value := jsontext.Value(bytes.TrimSpace(m.body))
	if len(value) == 0 || value[0] != '[' {
		m.message(value)
		return
	}
	if !value.IsValid() {
		m.lost = true
		return
	}
	all, err := elements(value)
	if err != nil {
		m.lost = true
		return
	}
	for _, one := range all {
		m.message(one)
	}
}
