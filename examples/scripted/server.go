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

// ServeHTTP answers what asks for a message of a model, and /models and /messages/count_tokens beside it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return // the agent is gone, or sends without end
	}
	protocol, turn, ok, err := Decode(r.Method, r.URL.Path, body)
	switch {
	case strings.HasSuffix(r.URL.Path, "/models"):
		w.Header().Set("Content-Type", "application/json")
		writeJSON(w, map[string]any{"object": "list", "data": []any{map[string]any{"id": "scripted", "object": "model"}}})
	case strings.HasSuffix(r.URL.Path, "/messages/count_tokens"):
		w.Header().Set("Content-Type", "application/json")
		writeJSON(w, map[string]any{"input_tokens": 100})
	case err != nil:
		http.Error(w, `{"error":{"message":"malformed request"}}`, http.StatusBadRequest)
	case !ok:
		http.Error(w, `{"error":{"message":"no such route"}}`, http.StatusNotFound)
	default:
		turn.WantsUsage = true // some agents want it and do not ask
		reply := s.Reply(turn)
		w.Header().Set("Content-Type", turn.ContentType())
		protocol.Write(w, turn, &reply)
	}
}

// Reply notes the results in the request and picks the reply.
func (s *Server) Reply(request *Turn) Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(request.Tools) == 0 {
		return Reply{Text: "scripted", Usage: claimed} // agents ask for titles and summaries without tools
	}
	s.tools = request.Tools
	var results []string
	for i := range s.script.Steps {
		at := slices.IndexFunc(request.Results, func(r Result) bool { return issued(r.CallID, i) })
		if at < 0 {
			break
		}
		results = append(results, request.Results[at].Text)
	}
	if len(results) >= len(s.results) {
		s.results = results
	}
	if len(results) >= len(s.script.Steps) {
		s.done = true
		return Reply{Text: s.script.Answer, Usage: claimed}
	}
	next := Reply{Usage: claimed}
	for i := len(results); i < len(s.script.Steps) && len(next.Calls) < atOnce; i++ {
		step := &s.script.Steps[i]
		if i > len(results) && !step.Injected {
			break
		}
		arguments, err := json.Marshal(step.Arguments)
		if err != nil {
			return Reply{Text: fmt.Sprintf("the script's arguments cannot be encoded: %v", err)}
		}
		next.Calls = append(next.Calls, ToolCall{callID(i), step.Tool, string(arguments)})
		if !step.Injected {
			break
		}
	}
	return next
}

// claimed is what the model says to have used; agents want to be told.
var claimed = &Usage{Input: 100, Output: 10}

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
