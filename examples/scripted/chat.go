package scripted

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// OpenAI's chat completions, as OpenClaw, opencode and most others speak them.

func decodeChat(body []byte) (turn, error) {
	var request struct {
		Model    string `json:"model"`
		Stream   bool   `json:"stream"`
		Messages []struct {
			Role       string          `json:"role"`
			ToolCallID string          `json:"tool_call_id"`
			Content    json.RawMessage `json:"content"`
		} `json:"messages"`
		Tools []struct {
			Function struct {
				Name string `json:"name"`
			} `json:"function"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return turn{}, fmt.Errorf("chat completions: %w", err)
	}
	t := turn{model: request.Model, stream: request.Stream}
	for _, tool := range request.Tools {
		t.tools = append(t.tools, tool.Function.Name)
	}
	for _, message := range request.Messages {
		if message.Role == "tool" {
			t.results = append(t.results, result{message.ToolCallID, plainText(message.Content)})
		}
	}
	return t, nil
}

func (r *reply) chatFinish() string {
	if len(r.calls) > 0 {
		return "tool_calls"
	}
	return "stop"
}

func (r *reply) chatCalls() []any {
	var calls []any
	for i, c := range r.calls {
		calls = append(calls, map[string]any{
			"index": i, "id": c.id, "type": "function", "function": map[string]any{"name": c.tool, "arguments": c.arguments},
		})
	}
	return calls
}

// chatUsage is what the model claims to have used; agents want the field.
var chatUsage = map[string]any{"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}

func writeChat(w http.ResponseWriter, model string, r *reply) {
	message := map[string]any{"role": "assistant", "content": r.text}
	if len(r.calls) > 0 {
		message["content"], message["tool_calls"] = nil, r.chatCalls()
	}
	writeJSON(w, map[string]any{
		"id": "chatcmpl-scripted", "object": "chat.completion", "created": time.Now().Unix(), "model": model, "usage": chatUsage,
		"choices": []any{map[string]any{"index": 0, "finish_reason": r.chatFinish(), "message": message}},
	})
}

// streamChat sends usage in the last chunk, as with stream_options.include_usage.
func streamChat(w *events, model string, r *reply) {
	chunk := func(choices []any, usage any) {
		w.send("", map[string]any{
			"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": time.Now().Unix(),
			"model": model, "choices": choices, "usage": usage,
		})
	}
	choice := func(delta map[string]any, finish any) []any {
		return []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}}
	}
	delta := map[string]any{"content": r.text}
	if len(r.calls) > 0 {
		delta = map[string]any{"tool_calls": r.chatCalls()}
	}
	chunk(choice(map[string]any{"role": "assistant", "content": ""}, nil), nil)
	chunk(choice(delta, nil), nil)
	chunk(choice(map[string]any{}, r.chatFinish()), nil)
	chunk([]any{}, chatUsage)
	fmt.Fprint(w.to, "data: [DONE]\n\n")
}
