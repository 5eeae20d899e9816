package scripted

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxBody bounds a request of the agent, in bytes. Agents send their whole history with every turn.
const maxBody = 16 << 20

// Server serves one script to one agent. Which step comes next is read from the request (how many of the calls that this
// server issued have a result in it), so a request that is sent again gets the same answer.
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

// chatRequest is the part of a chat completions request that the script needs.
type chatRequest struct {
	Model    string        `json:"model"`
	Stream   bool          `json:"stream"`
	Messages []chatMessage `json:"messages"`
	Tools    []struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	} `json:"tools"`
}

type chatMessage struct {
	Role       string          `json:"role"`
	ToolCallID string          `json:"tool_call_id"`
	Content    json.RawMessage `json:"content"` // a string, or parts with a text
}

// ServeHTTP answers /v1/chat/completions and /v1/models.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/models"):
		writeJSON(w, map[string]any{"object": "list", "data": []any{map[string]any{"id": "scripted", "object": "model"}}})
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/chat/completions"):
		var request chatRequest
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&request); err != nil {
			http.Error(w, `{"error":{"message":"malformed request"}}`, http.StatusBadRequest)
			return
		}
		next := s.next(&request)
		if request.Stream {
			next.stream(w, request.Model)
		} else {
			next.write(w, request.Model)
		}
	default:
		http.Error(w, `{"error":{"message":"no such route"}}`, http.StatusNotFound)
	}
}

// next notes the results in the request and picks the reply.
func (s *Server) next(request *chatRequest) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(request.Tools) == 0 {
		return reply{text: "scripted"} // agents ask for titles and summaries without tools
	}
	s.tools = s.tools[:0]
	for _, tool := range request.Tools {
		s.tools = append(s.tools, tool.Function.Name)
	}
	var results []string
	for _, message := range request.Messages {
		if message.Role == "tool" && issued(message.ToolCallID, len(results)) {
			results = append(results, message.text())
		}
	}
	if len(results) >= len(s.results) {
		s.results = results
	}
	if len(results) >= len(s.script.Steps) {
		s.done = true
		return reply{text: s.script.Answer}
	}
	step := s.script.Steps[len(results)]
	arguments, err := json.Marshal(step.Arguments)
	if err != nil {
		return reply{text: fmt.Sprintf("the script's arguments cannot be encoded: %v", err)}
	}
	return reply{callID: callID(len(results)), tool: step.Tool, arguments: string(arguments)}
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

func (m *chatMessage) text() string {
	var plain string
	if json.Unmarshal(m.Content, &plain) == nil {
		return plain
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(m.Content, &parts) != nil {
		return string(m.Content)
	}
	texts := make([]string, len(parts))
	for i, part := range parts {
		texts[i] = part.Text
	}
	return strings.Join(texts, "\n")
}

// reply is one message of the model: a text, or one tool call.
type reply struct {
	text                    string
	callID, tool, arguments string
}

func (r *reply) finish() string {
	if r.tool != "" {
		return "tool_calls"
	}
	return "stop"
}

func (r *reply) call() []any {
	return []any{map[string]any{
		"index": 0, "id": r.callID, "type": "function",
		"function": map[string]any{"name": r.tool, "arguments": r.arguments},
	}}
}

// usage is what the model claims to have used; agents want the field.
var usage = map[string]any{"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}

func (r *reply) write(w http.ResponseWriter, model string) {
	message := map[string]any{"role": "assistant", "content": r.text}
	if r.tool != "" {
		message["content"], message["tool_calls"] = nil, r.call()
	}
	writeJSON(w, map[string]any{
		"id": "chatcmpl-scripted", "object": "chat.completion", "created": time.Now().Unix(), "model": model, "usage": usage,
		"choices": []any{map[string]any{"index": 0, "finish_reason": r.finish(), "message": message}},
	})
}

// stream sends the reply as server-sent events, usage in the last chunk as with stream_options.include_usage.
func (r *reply) stream(w http.ResponseWriter, model string) {
	w.Header().Set("Content-Type", "text/event-stream")
	chunk := func(choices []any, extra map[string]any) {
		event := map[string]any{
			"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": time.Now().Unix(), "model": model, "choices": choices,
		}
		for key, value := range extra {
			event[key] = value
		}
		line, err := json.Marshal(event)
		if err == nil {
			fmt.Fprintf(w, "data: %s\n\n", line)
		}
	}
	choice := func(delta map[string]any, finish any) []any {
		return []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}}
	}
	delta := map[string]any{"content": r.text}
	if r.tool != "" {
		delta = map[string]any{"tool_calls": r.call()}
	}
	chunk(choice(map[string]any{"role": "assistant", "content": ""}, nil), nil)
	chunk(choice(delta, nil), nil)
	chunk(choice(map[string]any{}, r.finish()), nil)
	chunk([]any{}, map[string]any{"usage": usage})
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	// A failed write means that the agent is gone; there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(value)
}
