// Package agentloop is a small agent: it sends a task to an OpenAI-compatible model, really executes the tool calls that
// come back, reports the results, and ends when the model answers in words. It checks nothing that the model asks for,
// as agents do: what it may touch is for the guard around it to decide.
package agentloop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxTurns ends a conversation that a model never finishes.
const maxTurns = 200

// maxReply bounds one reply of the model, in bytes.
const maxReply = 4 << 20

// Agent talks to one model.
type Agent struct {
	BaseURL string // of the model's API, with /v1
	Key     string // bearer token
	Model   string
	Log     io.Writer // one line per tool call
}

type message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

type toolCall struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

// Do works on task until the model answers, and returns the answer.
func (a *Agent) Do(ctx context.Context, task string) (string, error) {
	history := []message{
		{Role: "system", Content: "You are an agent with tools. Use them to do what the person asks."},
		{Role: "user", Content: task},
	}
	for range maxTurns {
		reply, err := a.ask(ctx, history)
		if err != nil {
			return "", err
		}
		if len(reply.ToolCalls) == 0 {
			return reply.Content, nil
		}
		history = append(history, reply)
		for _, call := range reply.ToolCalls {
			result := execute(ctx, call.Function.Name, []byte(call.Function.Arguments))
			fmt.Fprintf(a.Log, "tool %s %s -> %s\n", call.Function.Name, call.Function.Arguments, result.short())
			history = append(history, message{Role: "tool", ToolCallID: call.ID, Content: result.encode()})
		}
	}
	return "", errors.New("the model never came to an end")
}

// ask sends the history and returns the model's next message.
func (a *Agent) ask(ctx context.Context, history []message) (message, error) {
	body, err := json.Marshal(map[string]any{"model": a.Model, "messages": history, "tools": declarations()})
	if err != nil {
		return message{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.BaseURL+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return message{}, err
	}
	request.Header.Set("Authorization", "Bearer "+a.Key)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return message{}, fmt.Errorf("ask the model: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return message{}, fmt.Errorf("ask the model: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return message{}, fmt.Errorf("ask the model: %s: %.600s", response.Status, text)
	}
	var reply struct {
		Choices []struct {
			Message message `json:"message"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(text, &reply); err != nil {
		return message{}, fmt.Errorf("ask the model: %w", err)
	}
	if len(reply.Choices) == 0 {
		return message{}, errors.New("ask the model: the reply has no choice")
	}
	return reply.Choices[0].Message, nil
}
