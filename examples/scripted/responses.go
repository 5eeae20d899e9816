package scripted

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// OpenAI's responses API, the only one that Codex speaks.

func decodeResponses(body []byte) (turn, error) {
	var request struct {
		Model  string          `json:"model"`
		Stream bool            `json:"stream"`
		Input  json.RawMessage `json:"input"` // a text, or items
		Tools  []struct {
			Type string `json:"type"`
			Name string `json:"name"` // built-in tools have none
		} `json:"tools"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return turn{}, fmt.Errorf("responses: %w", err)
	}
	t := turn{model: request.Model, stream: request.Stream}
	for _, tool := range request.Tools {
		if tool.Name == "" {
			tool.Name = tool.Type
		}
		t.tools = append(t.tools, tool.Name)
	}
	var items []struct {
		Type   string          `json:"type"`
		CallID string          `json:"call_id"`
		Output json.RawMessage `json:"output"`
	}
	if json.Unmarshal(request.Input, &items) != nil {
		return t, nil // a text alone: no results yet
	}
	for _, item := range items {
		if strings.HasSuffix(item.Type, "_call_output") {
			t.results = append(t.results, result{item.CallID, plainText(item.Output)})
		}
	}
	return t, nil
}

func (r *reply) responseItems() (items []any) {
	for _, c := range r.calls {
		items = append(items, map[string]any{
			"type": "function_call", "id": "fc_" + c.id, "call_id": c.id, "name": c.tool, "arguments": c.arguments, "status": "completed",
		})
	}
	if len(items) > 0 {
		return items
	}
	text := map[string]any{"type": "output_text", "text": r.text, "annotations": []any{}}
	return []any{map[string]any{"type": "message", "id": "msg_scripted", "role": "assistant", "status": "completed", "content": []any{text}}}
}

func response(model, status string, output []any) map[string]any {
	return map[string]any{
		"id": "resp_scripted", "object": "response", "created_at": time.Now().Unix(), "model": model, "status": status, "output": output,
		"usage": map[string]any{
			"input_tokens": 100, "input_tokens_details": map[string]any{"cached_tokens": 0},
			"output_tokens": 10, "output_tokens_details": map[string]any{"reasoning_tokens": 0}, "total_tokens": 110,
		},
	}
}

func writeResponses(w http.ResponseWriter, model string, r *reply) {
	writeJSON(w, response(model, "completed", r.responseItems()))
}

func streamResponses(w *events, model string, r *reply) {
	send := func(kind string, fields map[string]any) {
		fields["type"], fields["sequence_number"] = kind, w.next
		w.send(kind, fields)
	}
	items := r.responseItems()
	send("response.created", map[string]any{"response": response(model, "in_progress", []any{})})
	for i, item := range items {
		send("response.output_item.added", map[string]any{"output_index": i, "item": item})
		if len(r.calls) == 0 {
			send("response.output_text.delta", map[string]any{"item_id": "msg_scripted", "output_index": i, "content_index": 0, "delta": r.text})
		}
		send("response.output_item.done", map[string]any{"output_index": i, "item": item})
	}
	send("response.completed", map[string]any{"response": response(model, "completed", items)})
}
