package scripted

import (
	"encoding/json"
	"io"
)

// Gemini's generateContent and streamGenerateContent.

func decodeGenerate(t *Turn, body []byte) error {
	var request struct {
		Config struct {
			Most int `json:"maxOutputTokens"`
		} `json:"generationConfig"`
		Contents []struct {
			Role  string `json:"role"`
			Parts []struct {
				Text     string          `json:"text"`
				Inline   json.RawMessage `json:"inlineData"`
				File     json.RawMessage `json:"fileData"`
				Response *struct {
					ID, Name string
					Response json.RawMessage `json:"response"`
				} `json:"functionResponse"`
			} `json:"parts"`
		} `json:"contents"`
		Tools []struct {
			Functions []struct {
				Name string `json:"name"`
			} `json:"functionDeclarations"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return err
	}
	t.Most, t.WantsUsage = request.Config.Most, true
	for _, tool := range request.Tools {
		for _, f := range tool.Functions {
			t.Tools = append(t.Tools, f.Name)
		}
	}
	for _, content := range request.Contents {
		for _, part := range content.Parts {
			switch {
			case part.Response != nil:
				t.Results = append(t.Results, Result{part.Response.ID, string(part.Response.Response)})
			case part.Inline != nil || part.File != nil:
				t.Images++
			case content.Role != "model" && part.Text != "":
				t.Text = part.Text
			}
		}
	}
	return nil
}

// candidate is an answer, or a part of one; finish is empty before its end.
func candidate(model string, parts []any, finish string, usage *Usage) map[string]any {
	one := map[string]any{"index": 0, "content": map[string]any{"role": "model", "parts": parts}}
	if finish != "" {
		one["finishReason"] = finish
	}
	all := map[string]any{"candidates": []any{one}, "modelVersion": model, "responseId": "generate-scripted"}
	if usage != nil {
		all["usageMetadata"] = map[string]any{
			"promptTokenCount": usage.input(), "cachedContentTokenCount": usage.CacheRead, "candidatesTokenCount": usage.Output - usage.Reasoning,
			"thoughtsTokenCount": usage.Reasoning, "totalTokenCount": usage.input() + usage.Output,
		}
	}
	return all
}

func (r *Reply) generateCalls() (parts []any) {
	for _, c := range r.Calls {
		parts = append(parts, map[string]any{"functionCall": map[string]any{"id": c.ID, "name": c.Tool, "args": json.RawMessage(c.Arguments)}})
	}
	return parts
}

func writeGenerate(to io.Writer, model string, r *Reply) {
	parts := r.generateCalls()
	if len(parts) == 0 {
		parts = []any{map[string]any{"text": r.Text}}
	}
	writeJSON(to, candidate(model, parts, "STOP", r.Usage))
}

// streamGenerate says with each part what was used so far.
func streamGenerate(w *events, t *Turn, r *Reply) {
	var sofar *Usage
	if r.Usage != nil && !r.Late {
		sofar = &Usage{Input: r.Usage.Input, CacheRead: r.Usage.CacheRead, CacheWrite: r.Usage.CacheWrite}
	}
	parts := r.generateCalls()
	if len(parts) == 0 {
		for _, piece := range r.pieces() {
			w.send("", candidate(t.Model, []any{map[string]any{"text": piece}}, "", sofar))
		}
		parts = []any{map[string]any{"text": ""}}
	}
	w.send("", candidate(t.Model, parts, "STOP", r.Usage))
}
