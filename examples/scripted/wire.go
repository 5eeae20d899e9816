package scripted

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Turn is what a model needs of a request, in whichever API it came.
type Turn struct {
	Model      string
	Stream     bool
	WantsUsage bool   // a stream is to end with what was used; other APIs than chat completions say it unasked
	Most       int    // tokens of the answer at most; 0: not said
	Text       string // what the user said last
	Images     int    // and other things than text
	Tools      []string
	Results    []Result
}

// Result is what an agent reports of one tool call.
type Result struct {
	CallID, Text string
}

// Reply is one message of a model: a text, or tool calls.
type Reply struct {
	Text  string // streamed word by word
	Calls []ToolCall
	Usage *Usage // nil: it does not say
	Late  bool   // a stream says nothing of usage before its end
}

// ToolCall is one call of one of the agent's tools.
type ToolCall struct {
	ID, Tool  string
	Arguments string // a JSON object
}

// Usage is what a message used, in tokens. CacheRead and CacheWrite are beside Input, Reasoning is a part of Output.
type Usage struct {
	Input, CacheRead, CacheWrite int
	Output, Reasoning            int
}

func (u *Usage) input() int { return u.Input + u.CacheRead + u.CacheWrite }

// Protocol is one API in which agents talk to their models.
type Protocol struct {
	Name string // chat, responses, messages or generate
	// decode reads a request; what stands in its path is in the turn.
	decode func(turn *Turn, body []byte) error
	write  func(to io.Writer, model string, r *Reply)
	stream func(to *events, turn *Turn, r *Reply)
}

var protocols = map[string]*Protocol{
	"/chat/completions": {"chat", decodeChat, writeChat, streamChat},
	"/responses":        {"responses", decodeResponses, writeResponses, streamResponses},
	"/messages":         {"messages", decodeMessages, writeMessages, streamMessages},
}

var generate = &Protocol{"generate", decodeGenerate, writeGenerate, streamGenerate}

// Decode reads a request for a message of a model. ok is false for one that asks for something else.
func Decode(method, path string, body []byte) (p *Protocol, turn *Turn, ok bool, err error) {
	if method != http.MethodPost {
		return nil, nil, false, nil
	}
	turn = new(Turn)
	for suffix, known := range protocols {
		if strings.HasSuffix(path, suffix) {
			p = known
		}
	}
	if at := strings.LastIndex(path, "/models/"); p == nil && at >= 0 {
		model, verb, _ := strings.Cut(path[at+len("/models/"):], ":")
		turn.Model, turn.Stream = model, verb == "streamGenerateContent"
		if turn.Stream || verb == "generateContent" {
			p = generate
		}
	}
	if p == nil {
		return nil, nil, false, nil
	}
	if err := p.decode(turn, body); err != nil {
		return p, nil, true, fmt.Errorf("%s: %w", p.Name, err)
	}
	return p, turn, true, nil
}

// Write writes a reply as that request wants it. Each event of a stream is one Write of to, whose errors nobody is told: the agent is gone.
func (p *Protocol) Write(to io.Writer, turn *Turn, r *Reply) {
	if turn.Stream {
		p.stream(&events{to: to}, turn, r)
		return
	}
	p.write(to, turn.Model, r)
}

// ContentType is that of a reply to the request.
func (t *Turn) ContentType() string {
	if t.Stream {
		return "text/event-stream"
	}
	return "application/json"
}

// pieces are what a text is streamed in.
func (r *Reply) pieces() []string { return strings.SplitAfter(r.Text, " ") }

// plainText reads a content that is a string, or a list of parts with a text each, as all APIs allow.
func plainText(content json.RawMessage) string {
	var plain string
	if json.Unmarshal(content, &plain) == nil {
		return plain
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(content, &parts) != nil {
		return string(content)
	}
	var texts []string
	for _, part := range parts {
		if part.Text != "" {
			texts = append(texts, part.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// opaque counts the parts of a content that are no text: images, files, audio.
func opaque(content json.RawMessage) (n int) {
	var parts []struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(content, &parts) != nil {
		return 0
	}
	for _, part := range parts {
		switch part.Type {
		case "image", "image_url", "input_image", "document", "file", "input_file", "input_audio":
			n++
		}
	}
	return n
}

// events writes server-sent events.
type events struct {
	to   io.Writer
	next int // number of the next one
}

// send writes one event. name may be empty.
func (e *events) send(name string, value any) {
	line, err := json.Marshal(value)
	if err != nil {
		return
	}
	event := fmt.Sprintf("data: %s\n\n", line)
	if name != "" {
		event = "event: " + name + "\n" + event
	}
	_, _ = io.WriteString(e.to, event)
	e.next++
}

func writeJSON(to io.Writer, value any) { _ = json.NewEncoder(to).Encode(value) }
