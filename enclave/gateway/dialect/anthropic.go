package dialect

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// messages is Anthropic's POST /v1/messages.
type messages struct{}

// What is not here may cost beside the tokens of this call: container and mcp_servers run at the provider and ask the model again.
var messagesMembers = strings.Fields(`model messages max_tokens system stream stop_sequences temperature top_k top_p tools tool_choice metadata
	thinking service_tier cache_control context_management output_config output_format speed inference_geo diagnostics thread`)

// unthreaded is what Anthropic says of a request that cannot be a part of a thread, a conversation that it keeps: SDKs send all of
// it then, and the request says again what its input is.
var unthreaded = map[string]any{"error_code": "thread_unsupported_request", "unsupported": []string{"metering"}}

func (m messages) read(r *Request, o *object) error {
	if o.get("thread") != nil {
		refusal := refuse(Invalid, "thread: the provider would keep a part of the input, so what it costs cannot be bounded: send all of it")
		refusal.Details = unthreaded
		return refusal
	}
	if err := r.readHead(o, messagesMembers); err != nil {
		return err
	}
	for name, values := range map[string][]string{
		"service_tier":  {"auto", "standard_only"},
		"speed":         {"standard"},
		"inference_geo": {"global"},
	} {
		if err := oneOf(o, name, values...); err != nil {
			return err
		}
	}
	var err error
	if r.output, err = o.count("max_tokens"); err != nil {
		return err
	}
	r.limit, r.wantsUsage = []string{"max_tokens"}, true
	if err := m.readThinking(r, o); err != nil {
		return err
	}
	r.cacheWrite = bytes.Contains(o.raw, []byte("cache_control")) || bytes.Contains(o.raw, []byte(`\u`)) // wherever it stands, however written
	if err := m.readEdits(o); err != nil {
		return err
	}
	if err := m.readTools(r, o); err != nil {
		return err
	}
	if err := m.readContent(r, o.get("system")); err != nil {
		return err
	}
	list, err := o.objects("messages")
	if err != nil {
		return err
	}
	for _, message := range list {
		r.input += aroundMessage
		if err := m.readMessage(message); err != nil {
			return err
		}
		if err := m.readContent(r, message.get("content")); err != nil {
			return err
		}
	}
	return nil
}

// readMessage takes what a message says beside its content: from here on another effort, which max_tokens bounds all the same, and when
// it is forgotten.
func (messages) readMessage(message *object) error {
	if err := onlyKnown(message, "of a message: ", []string{"role", "content", "output_config", "clear_at"}); err != nil {
		return err
	}
	config, err := message.object("output_config")
	if err != nil || config == nil {
		return err
	}
	return onlyKnown(config, "of a message's output_config: ", []string{"effort"})
}

// readThinking takes a budget for thinking. Between calls of tools it may be above max_tokens, also above the one that is set here: then
// both bound the answer together.
func (messages) readThinking(r *Request, o *object) error {
	thinking, err := o.object("thinking")
	if err != nil || thinking == nil {
		return err
	}
	r.beyond, err = thinking.count("budget_tokens")
	return err
}

// readEdits takes edits that leave out something of the input; others ask a model once more.
func (messages) readEdits(o *object) error {
	management, err := o.object("context_management")
	if err != nil || management == nil {
		return err
	}
	if err := onlyKnown(management, "of context_management: ", []string{"edits"}); err != nil {
		return err
	}
	edits, err := management.objects("edits")
	if err != nil {
		return err
	}
	for _, edit := range edits {
		kind, _, err := edit.text("type")
		if err != nil {
			return err
		}
		if !strings.HasPrefix(kind, "clear_tool_uses_") && !strings.HasPrefix(kind, "clear_thinking_") {
			return refuse(Invalid, "the edit %.80q may ask the model once more: leave it out", kind)
		}
	}
	return nil
}

// Tools that Anthropic describes and the agent runs; their types end with a date.
var anthropicClientTools = []string{"bash_", "text_editor_", "computer_", "memory_"}

func (m messages) readTools(r *Request, o *object) error {
	tools, err := o.objects("tools")
	if err != nil || len(tools) == 0 {
		return err
	}
	r.input += aroundTools
	r.described(o.get("tools"))
	for _, tool := range tools {
		if err := m.readTool(r, tool); err != nil {
			return err
		}
	}
	return nil
}

func (messages) readTool(r *Request, tool *object) error {
	kind, there, err := tool.text("type")
	if err != nil {
		return err
	}
	r.input += aroundMessage
	if !there || kind == "custom" {
		return nil
	}
	if !slices.ContainsFunc(anthropicClientTools, func(prefix string) bool {
		date, ok := strings.CutPrefix(kind, prefix)
		return ok && date != "" && strings.Trim(date, "0123456789") == "" // not computer_toolset_, which is many
	}) {
		return refuse(Invalid, "tool %.80q runs at the provider, or is not known here: its use is charged beside tokens, so it is refused", kind)
	}
	r.input += aroundTools // described by the provider, not by the request
	return nil
}

// readToolChange takes a tool that comes or goes in the middle of a conversation: one of the request's list, or one described here.
func (m messages) readToolChange(r *Request, block *object) error {
	tool, err := block.object("tool")
	if err != nil {
		return err
	}
	if tool == nil {
		return errors.New("tool: an object is expected")
	}
	kind, _, err := tool.text("type")
	if err != nil {
		return err
	}
	switch kind {
	case "tool_reference":
		r.refer()
		return nil
	case "tool_definition":
		definition, err := tool.object("definition")
		if err != nil {
			return err
		}
		if definition == nil {
			return errors.New("definition: an object is expected")
		}
		r.input += aroundTools
		r.described(definition.raw)
		return m.readTool(r, definition)
	default:
		return refuse(Invalid, "a change of tools of type %.80q is not known here, and may cost: leave it out", kind)
	}
}

// described remembers a description of tools that references may repeat.
func (r *Request) described(tools jsontext.Value) { r.tools += int64(len(tools)) + expansion(tools) }

// refer counts a reference to a tool of the list: the provider puts its description there once more.
func (r *Request) refer() { r.input += aroundMessage + r.tools }

// readContent takes text or blocks. Thinking is signed: its signature may hold more of it than the text shows.
func (m messages) readContent(r *Request, content jsontext.Value) error {
	if content == nil || content.Kind() != '[' {
		return readParts(r, content, nil, nil)
	}
	blocks, err := contentObjects(content)
	if err != nil {
		return err
	}
	for _, block := range blocks {
		kind, _, err := block.text("type")
		if err != nil {
			return err
		}
		switch kind {
		case "text", "tool_use", "search_result":
		case "tool_reference":
			r.refer()
		case "tool_addition", "tool_removal":
			if err := m.readToolChange(r, block); err != nil {
				return err
			}
		case "tool_result":
			if err := m.readContent(r, block.get("content")); err != nil {
				return err
			}
		case "thinking", "redacted_thinking", "image", "document":
			r.Opaque = "content of type " + kind
		default:
			return refuse(Invalid, "content of type %.80q is not known here, and may cost: leave it out", kind)
		}
	}
	return nil
}

// anthropicUsage: counts are of the whole message so far, in events of a stream too; what an event leaves out stands as it was.
type anthropicUsage struct {
	Input         *int64 `json:"input_tokens"`
	Output        *int64 `json:"output_tokens"`
	CacheRead     *int64 `json:"cache_read_input_tokens"`
	CacheWrite    *int64 `json:"cache_creation_input_tokens"` // all of it
	CacheCreation *struct {
		Hour int64 `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation"`
}

func (a *anthropicUsage) into(u *Usage) error {
	written := u.CacheWrite + u.CacheWrite1h
	for _, field := range []struct {
		to   *int64
		from *int64
	}{{&u.Input, a.Input}, {&u.Output, a.Output}, {&u.CacheRead, a.CacheRead}, {&written, a.CacheWrite}} {
		if field.from != nil {
			*field.to = *field.from
		}
	}
	if a.CacheCreation != nil {
		u.CacheWrite1h = a.CacheCreation.Hour
	}
	u.CacheWrite = written - u.CacheWrite1h
	return u.check()
}

// usage is in the answer; of a stream, message_start has the input, message_delta what was used by then, and message_stop says
// that nothing follows.
func (messages) usage(u *Usage, message []byte) (found, last bool, err error) {
	var m struct {
		Type    string          `json:"type"`
		Usage   *anthropicUsage `json:"usage"`
		Message struct {
			Usage *anthropicUsage `json:"usage"`
		} `json:"message"`
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return false, false, err
	}
	switch m.Type {
	case "message": // not streamed
		if m.Usage == nil || m.Usage.Input == nil || m.Usage.Output == nil {
			return false, false, nil
		}
		err := m.Usage.into(u)
		return err == nil, err == nil, err
	case "message_start":
		if m.Message.Usage == nil {
			return false, false, nil
		}
		return false, false, m.Message.Usage.into(u)
	case "message_delta":
		if m.Usage == nil || m.Usage.Output == nil {
			return false, false, nil
		}
		// An output without any input is not the end of a message whose beginning was seen.
		err := m.Usage.into(u)
		return err == nil && u.Total() > u.Output, false, err
	case "message_stop":
		return false, true, nil
	default:
		return false, false, nil
	}
}
