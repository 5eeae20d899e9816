package dialect

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// responses is OpenAI's POST /v1/responses.
type responses struct{}

// What is not here may cost beside the tokens of this call: prompt brings instructions, tools and a model of its own, background
// ends before usage is known.
var responsesMembers = strings.Fields(`model input instructions max_output_tokens max_tool_calls metadata parallel_tool_calls
	previous_response_id conversation reasoning safety_identifier service_tier store stream stream_options temperature text
	tool_choice tools top_logprobs top_p truncation user include prompt_cache_key prompt_cache_retention client_metadata`)

// Types of tools that run where the agent is, and of content.
var (
	responsesTools  = strings.Fields("function custom local_shell apply_patch")
	responsesText   = strings.Fields("input_text output_text text refusal summary_text reasoning_text")
	responsesOpaque = strings.Fields("input_image input_file")
)

func (responses) read(r *Request, o *object) error {
	if err := r.readHead(o, responsesMembers); err != nil {
		return err
	}
	if err := oneOf(o, "service_tier", "default", "flex"); err != nil {
		return err
	}
	var err error
	if r.output, err = o.count("max_output_tokens"); err != nil {
		return err
	}
	if err := r.readReasoning(o, "generate_summary", "context"); err != nil {
		return err
	}
	if err := readRetention(r, o); err != nil {
		return err
	}
	r.limit = []string{"max_output_tokens"}
	r.wantsUsage = true
	for _, stored := range []string{"previous_response_id", "conversation"} {
		if o.get(stored) != nil {
			r.Opaque = stored + ", which the provider has"
		}
	}
	if err := readToolspaces(r, o); err != nil {
		return err
	}
	input := o.get("input")
	if input == nil || input.Kind() == '"' {
		return nil
	}
	items, err := o.elements("input")
	if err != nil {
		return err
	}
	for _, raw := range items {
		r.input += aroundMessage
		if err := readItem(r, raw); err != nil {
			return err
		}
	}
	return nil
}

// readToolspaces takes tools, and tools under a common name.
func readToolspaces(r *Request, o *object) error {
	if err := readTools(r, o, append([]string{"namespace"}, responsesTools...)); err != nil {
		return err
	}
	tools, err := o.objects("tools")
	if err != nil {
		return err
	}
	for _, tool := range tools {
		if kind, _, err := tool.text("type"); err != nil || kind != "namespace" {
			continue // readTools has read the type
		}
		if err := onlyKnown(tool, "of a tool of type namespace: ", []string{"type", "name", "description", "tools"}); err != nil {
			return err
		}
		if err := readTools(r, tool, responsesTools); err != nil {
			return err
		}
	}
	return nil
}

// readItem takes one item of the input: a message, or what a model or a tool said before.
func readItem(r *Request, raw jsontext.Value) error {
	item, err := parsed(raw)
	if err != nil {
		return fmt.Errorf("input: %w", err)
	}
	kind, there, err := item.text("type")
	if err != nil {
		return err
	}
	if !there {
		kind = "message"
	}
	switch kind {
	case "message":
		return readParts(r, item.get("content"), responsesText, responsesOpaque)
	case "function_call_output", "custom_tool_call_output":
		return readParts(r, item.get("output"), responsesText, responsesOpaque)
	case "function_call", "custom_tool_call", "local_shell_call", "local_shell_call_output", "apply_patch_call", "apply_patch_call_output":
		return nil
	case "reasoning":
		// What is encrypted may have been compressed before: its bytes bound nothing.
		if item.get("encrypted_content") != nil || item.get("content") == nil {
			r.Opaque = "reasoning that is encrypted or kept by the provider"
		}
		return nil
	case "item_reference", "compaction", "compaction_summary":
		r.Opaque = "an item of type " + kind
		return nil
	default:
		return refuse(Invalid, "an item of type %.80q is not known here, and may cost: leave it out", kind)
	}
}

// usage is in the answer itself, or in the response that the last event carries.
func (responses) usage(u *Usage, message []byte) (found, last bool, err error) {
	var m struct {
		Object   string       `json:"object"`
		Type     string       `json:"type"`
		Usage    *openAIUsage `json:"usage"`
		Response struct {
			Usage *openAIUsage `json:"usage"`
		} `json:"response"`
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return false, false, err
	}
	var says *openAIUsage
	switch {
	case m.Type == "response.completed" || m.Type == "response.incomplete" || m.Type == "response.failed":
		says = m.Response.Usage
	case m.Object == "response":
		says = m.Usage
	}
	if says == nil {
		return false, false, nil
	}
	err = u.openAI(says.Input, says.Output, says.InputWith, says.OutputWith.Reasoning)
	return err == nil, err == nil, err
}
