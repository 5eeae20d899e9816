package scripted

import (
	"encoding/json"
	"io"
	"strings"
	"time"
)

// OpenAI's responses API, the only one that Codex speaks.

func decodeResponses(t *Turn, body []byte) error {
	var request struct {
		Model  string          `json:"model"`
		Stream bool            `json:"stream"`
		Most   int             `json:"max_output_tokens"`
		Input  json.RawMessage `json:"input"` // a text, or items
		Tools  []struct {
			Type string `json:"type"`
			Name string `json:"name"` // built-in tools have none
		} `json:"tools"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return err
	}
	t.Model, t.Stream, t.Most, t.WantsUsage = request.Model, request.Stream, request.Most, true
	for _, tool := range request.Tools {
		if tool.Name == "" {
			tool.Name = tool.Type
		}
		t.Tools = append(t.Tools, tool.Name)
	}
	var items []struct {
		Type    string          `json:"type"`
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
		CallID  string          `json:"call_id"`
		Output  json.RawMessage `json:"output"`
	}
	if json.Unmarshal(request.Input, &items) != nil {
		t.Text = plainText(request.Input)
		return nil // a text alone: no results yet
	}
	for _, item := range items {
		t.Images += opaque(item.Content)
		switch {
		case strings.HasSuffix(item.Type, "_call_output"):
			t.Results = append(t.Results, Result{item.CallID, plainText(item.Output)})
		case item.Role == "user":
			t.Text = plainText(item.Content)
		}
	}
	return nil
}

func (r *Reply) responseItems() (items []any) {
	for _, c := range r.Calls {
		items = append(items, map[string]any{
			"type": "function_call", "id": "fc_" + c.ID, "call_id": c.ID, "name": c.Tool, "arguments": c.Arguments, "status": "completed",
		})
	}
	if len(items) > 0 {
		return items
	}
	text := map[string]any{"type": "output_text", "text": r.Text, "annotations": []any{}}
	return []any{map[string]any{"type": "message", "id": "msg_scripted", "role": "assistant", "status": "completed", "content": []any{text}}}
}

func (u *Usage) responses() any {
	if u == nil {
		return nil
	}
	return map[string]any{
		"input_tokens": u.input(), "input_tokens_details": map[string]any{"cached_tokens": u.CacheRead},
		"output_tokens": u.Output, "output_tokens_details": map[string]any{"reasoning_tokens": u.Reasoning}, "total_tokens": u.input() + u.Output,
	}
}

func response(model, status string, output []any, usage any) map[string]any {
	return map[string]any{
		"id": "resp_scripted", "object": "response", "created_at": time.Now().Unix(), "model": model, "status": status, "output": output, "usage": usage,
	}
}

func writeResponses(to io.Writer, model string, r *Reply) {
	writeJSON(to, response(model, "completed", r.responseItems(), r.Usage.responses()))
}

func streamResponses(w *events, t *Turn, r *Reply) {
	send := func(kind string, fields map[string]any) {
		fields["type"], fields["sequence_number"] = kind, w.next
		w.send(kind, fields)
	}
	items := r.responseItems()
	send("response.created", map[string]any{"response": response(t.Model, "in_progress", []any{}, nil)})
	for i, item := range items {
		begun := item
		if len(r.Calls) == 0 {
			begun = map[string]any{"type": "message", "id": "msg_scripted", "role": "assistant", "status": "in_progress", "content": []any{}}
		}
		send("response.output_item.added", map[string]any{"output_index": i, "item": begun})
		if len(r.Calls) == 0 {
			part := map[string]any{"type": "output_text", "text": "", "annotations": []any{}}
			send("response.content_part.added", map[string]any{"item_id": "msg_scripted", "output_index": i, "content_index": 0, "part": part})
			for _, piece := range r.pieces() {
				send("response.output_text.delta", map[string]any{"item_id": "msg_scripted", "output_index": i, "content_index": 0, "delta": piece})
			}
		}
		send("response.output_item.done", map[string]any{"output_index": i, "item": item})
	}
	send("response.completed", map[string]any{"response": response(t.Model, "completed", items, r.Usage.responses())})
}
