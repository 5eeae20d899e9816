package scripted

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Anthropic's messages, as Claude Code speaks them.

func decodeMessages(body []byte) (turn, error) {
	var request struct {
		Model    string `json:"model"`
		Stream   bool   `json:"stream"`
		Messages []struct {
			Content json.RawMessage `json:"content"` // a text, or blocks
		} `json:"messages"`
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return turn{}, fmt.Errorf("messages: %w", err)
	}
	t := turn{model: request.Model, stream: request.Stream}
	for _, tool := range request.Tools {
		t.tools = append(t.tools, tool.Name)
	}
	for _, message := range request.Messages {
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
				t.results = append(t.results, result{block.ToolUseID, plainText(block.Content)})
			}
		}
	}
	return t, nil
}

// blocks are the reply's parts, and the reason why it stops.
func (r *reply) blocks() (blocks []map[string]any, stop string) {
	for _, c := range r.calls {
		blocks = append(blocks, map[string]any{
			"type": "tool_use", "id": "toolu_" + c.id, "name": c.tool, "input": json.RawMessage(c.arguments),
		})
	}
	if len(blocks) > 0 {
		return blocks, "tool_use"
	}
	return []map[string]any{{"type": "text", "text": r.text}}, "end_turn"
}

func message(model string, blocks, stop any) map[string]any {
	return map[string]any{
		"id": "msg_scripted", "type": "message", "role": "assistant", "model": model, "content": blocks,
		"stop_reason": stop, "stop_sequence": nil, "usage": map[string]any{"input_tokens": 100, "output_tokens": 10},
	}
}

func writeMessages(w http.ResponseWriter, model string, r *reply) {
	blocks, stop := r.blocks()
	writeJSON(w, message(model, blocks, stop))
}

func streamMessages(w *events, model string, r *reply) {
	send := func(kind string, fields map[string]any) {
		fields["type"] = kind
		w.send(kind, fields)
	}
	blocks, stop := r.blocks()
	send("message_start", map[string]any{"message": message(model, []any{}, nil)})
	for i, block := range blocks {
		var delta map[string]any
		if len(r.calls) > 0 {
			block["input"] = map[string]any{}
			delta = map[string]any{"type": "input_json_delta", "partial_json": r.calls[i].arguments}
		} else {
			block["text"] = ""
			delta = map[string]any{"type": "text_delta", "text": r.text}
		}
		send("content_block_start", map[string]any{"index": i, "content_block": block})
		send("content_block_delta", map[string]any{"index": i, "delta": delta})
		send("content_block_stop", map[string]any{"index": i})
	}
	send("message_delta", map[string]any{
		"delta": map[string]any{"stop_reason": stop, "stop_sequence": nil}, "usage": map[string]any{"output_tokens": 10},
	})
	send("message_stop", map[string]any{})
}
