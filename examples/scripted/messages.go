package scripted

import (
	"encoding/json"
	"io"
)

// Anthropic's messages, as Claude Code speaks them.

func decodeMessages(t *Turn, body []byte) error {
	var request struct {
		Model    string `json:"model"`
		Stream   bool   `json:"stream"`
		Most     int    `json:"max_tokens"`
		Messages []struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"` // a text, or blocks
		} `json:"messages"`
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return err
	}
	t.Model, t.Stream, t.Most, t.WantsUsage = request.Model, request.Stream, request.Most, true
	for _, tool := range request.Tools {
		t.Tools = append(t.Tools, tool.Name)
	}
	for _, message := range request.Messages {
		if message.Role == "user" {
			t.Text = plainText(message.Content)
		}
		t.Images += opaque(message.Content)
		var blocks []struct {
			Type      string          `json:"type"`
			ToolUseID string          `json:"tool_use_id"`
			Content   json.RawMessage `json:"content"`
		}
		if json.Unmarshal(message.Content, &blocks) != nil {
			continue // a text alone holds no result
		}
		for _, block := range blocks {
			if block.Type == "tool_result" {
				t.Results = append(t.Results, Result{block.ToolUseID, plainText(block.Content)})
			}
		}
	}
	return nil
}

// blocks are the reply's parts, and the reason why it stops.
func (r *Reply) blocks() (blocks []map[string]any, stop string) {
	for _, c := range r.Calls {
		blocks = append(blocks, map[string]any{
			"type": "tool_use", "id": "toolu_" + c.ID, "name": c.Tool, "input": json.RawMessage(c.Arguments),
		})
	}
	if len(blocks) > 0 {
		return blocks, "tool_use"
	}
	return []map[string]any{{"type": "text", "text": r.Text}}, "end_turn"
}

// messages is usage by the names of that API; with none, nothing is said.
func (u *Usage) messages() map[string]any {
	if u == nil {
		return map[string]any{}
	}
	return map[string]any{
		"input_tokens": u.Input, "cache_read_input_tokens": u.CacheRead, "cache_creation_input_tokens": u.CacheWrite, "output_tokens": u.Output,
	}
}

func message(model string, blocks, stop, usage any) map[string]any {
	return map[string]any{
		"id": "msg_scripted", "type": "message", "role": "assistant", "model": model, "content": blocks,
		"stop_reason": stop, "stop_sequence": nil, "usage": usage,
	}
}

func writeMessages(to io.Writer, model string, r *Reply) {
	blocks, stop := r.blocks()
	writeJSON(to, message(model, blocks, stop, r.Usage.messages()))
}

func streamMessages(w *events, t *Turn, r *Reply) {
	send := func(kind string, fields map[string]any) {
		fields["type"] = kind
		w.send(kind, fields)
	}
	blocks, stop := r.blocks()
	first, last := map[string]any{"input_tokens": 0, "output_tokens": 0}, r.Usage.messages()
	if r.Usage != nil && !r.Late {
		begun := *r.Usage
		begun.Output = 1
		first, last = begun.messages(), map[string]any{"output_tokens": r.Usage.Output}
	}
	send("message_start", map[string]any{"message": message(t.Model, []any{}, nil, first)})
	for i, block := range blocks {
		var deltas []map[string]any
		if len(r.Calls) > 0 {
			block["input"] = map[string]any{}
			deltas = append(deltas, map[string]any{"type": "input_json_delta", "partial_json": r.Calls[i].Arguments})
		} else {
			block["text"] = ""
			for _, piece := range r.pieces() {
				deltas = append(deltas, map[string]any{"type": "text_delta", "text": piece})
			}
		}
		send("content_block_start", map[string]any{"index": i, "content_block": block})
		for _, delta := range deltas {
			send("content_block_delta", map[string]any{"index": i, "delta": delta})
		}
		send("content_block_stop", map[string]any{"index": i})
	}
	send("message_delta", map[string]any{"delta": map[string]any{"stop_reason": stop, "stop_sequence": nil}, "usage": last})
	send("message_stop", map[string]any{})
}
