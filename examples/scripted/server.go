package scripted

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// maxBody bounds a request of the agent, in bytes. Agents send their whole history with every turn.
const maxBody = 16 << 20

// atOnce is how many injected steps one message of the model may hold. Some agents take seconds for a message, whatever it asks.
const atOnce = 8

// Server serves one script to one agent. Which steps come next is read from the request (how many of the calls that this
// server issued have a result in it), so a request that is sent again gets the same answer. Honest steps come one by one, injected
// ones several at a time, which an agent may carry out in any order.
type Server struct {
	script *Script

	mu      sync.Mutex
	results []string // of the steps, in order, as the agent reported them
	done    bool     // the answer was given
	tools   []string // that the agent offered last
}

// NewServer makes a server for script.
func NewServer(script *Script) *Server {
	return &Server{script: script}
}

// Results are the tool results that the agent reported, one for each step that it carried out so far.
func (s *Server) Results() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.results...)
}

// Done reports whether the agent heard the model's last message.
func (s *Server) Done() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// Tools are the names of the tools that the agent offered with its last request, to say what a script got wrong.
func (s *Server) Tools() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.tools...)
}

// turn is what the script needs of a request, in whichever API it came.
type turn struct {
	model   string
	stream  bool
	tools   []string
	results []result
}

// result is what an agent reports of one tool call.
type result struct {
	callID string
	text   string
}

// reply is one message of the model: a text, or tool calls.
type reply struct {
	text  string
	calls []call
}

type call struct {
	id, tool  string
	arguments string // a JSON object
}

// dialect is one API in which agents talk to their models.
type dialect struct {
	path   string // how the URL's path ends
	decode func(body []byte) (turn, error)
	write  func(w http.ResponseWriter, model string, r *reply)
	stream func(w *events, model string, r *reply)
}

var dialects = []dialect{
	{"/chat/completions", decodeChat, writeChat, streamChat},
	{"/responses", decodeResponses, writeResponses, streamResponses},
	{"/messages", decodeMessages, writeMessages, streamMessages},
}

// ServeHTTP answers /v1/chat/completions, /v1/responses, /v1/messages and /v1/models.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/models"):
		writeJSON(w, map[string]any{"object": "list", "data": []any{map[string]any{"id": "scripted", "object": "model"}}})
		return
	case strings.HasSuffix(r.URL.Path, "/messages/count_tokens"):
		writeJSON(w, map[string]any{"input_tokens": 100})
		return
	}
	for _, d := range dialects {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, d.path) {
			s.converse(w, r, &d)
			return
		}
	}
	http.Error(w, `{"error":{"message":"no such route"}}`, http.StatusNotFound)
}

func (s *Server) converse(w http.ResponseWriter, r *http.Request, d *dialect) {
	var request turn
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		request, err = d.decode(body)
	}
	if err != nil {
		http.Error(w, `{"error":{"message":"malformed request"}}`, http.StatusBadRequest)
		return
	}
	next := s.next(&request)
	if !request.stream {
		d.write(w, request.model, &next)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	d.stream(&events{to: w}, request.model, &next)
}

// next notes the results in the request and picks the reply.
func (s *Server) next(request *turn) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(request.tools) == 0 {
		return reply{text: "scripted"} // agents ask for titles and summaries without tools
	}
	s.tools = request.tools
	var results []string
	for i := range s.script.Steps {
		at := slices.IndexFunc(request.results, func(r result) bool { return issued(r.callID, i) })
		if at < 0 {
			break
		}
		results = append(results, request.results[at].text)
	}
	if len(results) >= len(s.results) {
		s.results = results
	}
	if len(results) >= len(s.script.Steps) {
		s.done = true
		return reply{text: s.script.Answer}
	}
	var next reply
	for i := len(results); i < len(s.script.Steps) && len(next.calls) < atOnce; i++ {
		step := &s.script.Steps[i]
		if i > len(results) && !step.Injected {
			break
		}
		arguments, err := json.Marshal(step.Arguments)
		if err != nil {
			return reply{text: fmt.Sprintf("the script's arguments cannot be encoded: %v", err)}
		}
		next.calls = append(next.calls, call{callID(i), step.Tool, string(arguments)})
		if !step.Injected {
			break
		}
	}
	return next
}

// callID names the call of a step. Letters and digits only: agents rewrite anything else in the history.
func callID(step int) string { return fmt.Sprintf("callscripted%04d", step) }

func issued(id string, step int) bool {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(id))
	return strings.Contains(plain, callID(step))
}

// plainText reads a content that is a string, or a list of parts with a text each, as all three APIs allow.
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
	texts := make([]string, len(parts))
	for i, part := range parts {
		texts[i] = part.Text
	}
	return strings.Join(texts, "\n")
}

// events writes server-sent events.
type events struct {
	to   io.Writer
	next int // number of the next one
}

// send writes one event. name may be empty. A failed write means that the agent is gone; there is nobody left to tell.
func (e *events) send(name string, value any) {
	line, err := json.Marshal(value)
	if err != nil {
		return
	}
	if name != "" {
		fmt.Fprintf(e.to, "event: %s\n", name)
	}
	fmt.Fprintf(e.to, "data: %s\n\n", line)
	e.next++
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	// A failed write means that the agent is gone; there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(value)
}
