package scripted

import (
	"encoding/json"
	"io"
	"time"
)

// OpenAI's chat completions, as OpenClaw, opencode and most others speak them.

func decodeChat(t *Turn, body []byte) error {
	var request struct {
		Model   string `json:"model"`
		Stream  bool   `json:"stream"`
		Older   int    `json:"max_tokens"`
		Newer   int    `json:"max_completion_tokens"`
		Options struct {
			Usage bool `json:"include_usage"`
		} `json:"stream_options"`
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
		return err
	}
	t.Model, t.Stream, t.WantsUsage, t.Most = request.Model, request.Stream, request.Options.Usage, max(request.Older, request.Newer)
	for _, tool := range request.Tools {
		t.Tools = append(t.Tools, tool.Function.Name)
	}
	for _, message := range request.Messages {
		t.Images += opaque(message.Content)
		switch message.Role {
		case "tool":
			t.Results = append(t.Results, Result{message.ToolCallID, plainText(message.Content)})
		case "user":
			t.Text = plainText(message.Content)
		}
	}
	return nil
}

func (r *Reply) chatFinish() string {
	if len(r.Calls) > 0 {
		return "tool_calls"
	}
	return "stop"
}

func (r *Reply) chatCalls() []any {
	var calls []any
	for i, c := range r.Calls {
		calls = append(calls, map[string]any{
			"index": i, "id": c.ID, "type": "function", "function": map[string]any{"name": c.Tool, "arguments": c.Arguments},
		})
	}
	return calls
}

func (u *Usage) chat() any {
	if u == nil {
		return nil
	}
	return map[string]any{
		"prompt_tokens": u.input(), "completion_tokens": u.Output, "total_tokens": u.input() + u.Output,
		"prompt_tokens_details":     map[string]any{"cached_tokens": u.CacheRead},
		"completion_tokens_details": map[string]any{"reasoning_tokens": u.Reasoning},
	}
}

func writeChat(to io.Writer, model string, r *Reply) {
	message := map[string]any{"role": "assistant", "content": r.Text}
	if len(r.Calls) > 0 {
		message["content"], message["tool_calls"] = nil, r.chatCalls()
	}
	writeJSON(to, map[string]any{
		"id": "chatcmpl-scripted", "object": "chat.completion", "created": time.Now().Unix(), "model": model, "usage": r.Usage.chat(),
		"choices": []any{map[string]any{"index": 0, "finish_reason": r.chatFinish(), "message": message}},
	})
}

// streamChat sends usage in the last chunk, as with stream_options.include_usage.
func streamChat(w *events, t *Turn, r *Reply) {
	chunk := func(choices []any, usage any) {
		w.send("", map[string]any{
			"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": time.Now().Unix(),
			"model": t.Model, "choices": choices, "usage": usage,
		})
	}
	choice := func(delta map[string]any, finish any) []any {
		return []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}}
	}
	chunk(choice(map[string]any{"role": "assistant", "content": ""}, nil), nil)
	if len(r.Calls) > 0 {
		chunk(choice(map[string]any{"tool_calls": r.chatCalls()}, nil), nil)
	} else {
		for _, piece := range r.pieces() {
			chunk(choice(map[string]any{"content": piece}, nil), nil)
		}
	}
	chunk(choice(map[string]any{}, r.chatFinish()), nil)
	if t.WantsUsage && r.Usage != nil {
		chunk([]any{}, r.Usage.chat())
	}
	_, _ = io.WriteString(w.to, "data: [DONE]\n\n")
}
