package dialect

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Tokens that a provider adds around what a request says, beyond what the request's own syntax has bytes for.
const (
	aroundRequest = 512  // what a provider says to its models before all else
	aroundMessage = 16   // roles and separators of one message or tool
	aroundTools   = 2048 // what explains tools to a model; Anthropic's documentation counts up to 804, and 735 more for computer use
)

// chat is OpenAI's POST /v1/chat/completions, and what other servers offer under its name.
type chat struct {
	official bool // OpenAI's own, whose newer models take max_completion_tokens alone
}

// Members of a chat completion that cost nothing beside the tokens that its messages and its limit bound. What is not here may:
// web_search_options, audio and prediction do.
var chatMembers = strings.Fields(`model messages max_tokens max_completion_tokens n stream stream_options tools tool_choice
	parallel_tool_calls functions function_call response_format temperature top_p frequency_penalty presence_penalty logit_bias
	logprobs top_logprobs stop seed user safety_identifier prompt_cache_key prompt_cache_retention metadata store
	reasoning_effort verbosity service_tier modalities`)

// What servers with the same protocol take beside it.
var chatCompatibleMembers = append(strings.Fields(`top_k min_p repetition_penalty length_penalty min_tokens stop_token_ids ignore_eos
	skip_special_tokens chat_template_kwargs guided_json guided_regex guided_choice guided_grammar thinking enable_thinking
	reasoning include_reasoning num_ctx keep_alive`), chatMembers...)

// Members of one message, and types of its content.
var (
	chatMessageMembers = strings.Fields(`role content name tool_calls tool_call_id function_call refusal reasoning reasoning_content
		reasoning_details audio annotations`)
	chatTools  = []string{"function", "custom"}
	chatText   = []string{"text", "refusal"}
	chatOpaque = []string{"image_url", "file"} // audio has rates of its own, which no price list here names
)

func (c chat) read(r *Request, o *object) error {
	known := chatMembers
	if !c.official {
		known = chatCompatibleMembers
	}
	if err := r.readHead(o, known); err != nil {
		return err
	}
	if err := oneOf(o, "service_tier", "default", "flex"); err != nil {
		return err
	}
	if err := onlyText(o); err != nil {
		return err
	}
	options, err := o.object("stream_options")
	if err != nil {
		return err
	}
	if options != nil {
		if r.wantsUsage, err = options.flag("include_usage"); err != nil {
			return err
		}
	}
	if n, err := o.count("n"); err != nil {
		return err
	} else if n > 0 {
		r.choices = n
	}
	if err := c.readLimit(r, o); err != nil {
		return err
	}
	if err := c.readThinking(r, o); err != nil {
		return err
	}
	if err := readRetention(r, o); err != nil {
		return err
	}
	if err := readTools(r, o, chatTools); err != nil {
		return err
	}
	return c.readMessages(r, o)
}

// onlyText refuses answers that are charged at other rates.
func onlyText(o *object) error {
	modalities, err := o.elements("modalities")
	if err != nil {
		return err
	}
	for _, m := range modalities {
		if string(m) != `"text"` {
			return refuse(Invalid, "modalities %.40s: only text has a price here", m)
		}
	}
	return nil
}

func (c chat) readLimit(r *Request, o *object) error {
	older, err := o.count("max_tokens")
	if err != nil {
		return err
	}
	newer, err := o.count("max_completion_tokens")
	if err != nil {
		return err
	}
	// Which one a server follows if both are there is its own affair.
	r.output = max(older, newer)
	r.limit = []string{"max_tokens"}
	if c.official {
		r.limit = []string{"max_completion_tokens"}
	} else {
		r.ignorable = older == 0 && newer > 0
	}
	return nil
}

// readThinking takes what other servers call budgets of thinking.
func (chat) readThinking(r *Request, o *object) error {
	if err := r.readReasoning(o, "max_tokens", "enabled", "exclude"); err != nil {
		return err
	}
	thinking, err := o.object("thinking")
	if err != nil || thinking == nil {
		return err
	}
	budget, err := thinking.count("budget_tokens")
	r.beyond = max(r.beyond, budget)
	return err
}

// readRetention takes for how long OpenAI may keep what it caches.
func readRetention(r *Request, o *object) error {
	retention, _, err := o.text("prompt_cache_retention")
	if retention != "" && retention != "in_memory" && retention != "in-memory" {
		r.longCache = "prompt_cache_retention"
	}
	return err
}

// readTools takes tools that run where the agent is; those that the provider runs are charged by use.
func readTools(r *Request, o *object, known []string) error {
	tools, err := o.objects("tools")
	if err != nil || len(tools) == 0 {
		return err
	}
	r.input += aroundTools + aroundMessage*int64(len(tools))
	for _, tool := range tools {
		kind, there, err := tool.text("type")
		if err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("tools: an element without type")
		}
		if !slices.Contains(known, kind) {
			return refuse(Invalid, "tool %.80q runs at the provider, or is not known here: its use is charged beside tokens, so it is refused", kind)
		}
	}
	return nil
}

func (c chat) readMessages(r *Request, o *object) error {
	opaque := chatOpaque
	if !c.official {
		opaque = opaque[:1] // some have files read by a tool that costs
	}
	list, err := o.objects("messages")
	if err != nil {
		return err
	}
	for _, message := range list {
		r.input += aroundMessage
		if err := onlyKnown(message, "of a message: ", chatMessageMembers); err != nil {
			return err
		}
		if message.get("audio") != nil {
			return refuse(Invalid, "audio of an earlier answer has no rate here: leave it out")
		}
		if message.get("reasoning_details") != nil {
			r.Opaque = "reasoning that may be encrypted"
		}
		if err := readParts(r, message.get("content"), chatText, opaque); err != nil {
			return err
		}
	}
	return nil
}

// readParts takes content: text, or a list of parts with a type. What is opaque has tokens that its bytes do not bound.
func readParts(r *Request, content jsontext.Value, plain, opaque []string) error {
	if content == nil || content.Kind() == '"' {
		return nil
	}
	parts, err := contentObjects(content)
	if err != nil {
		return err
	}
	for _, part := range parts {
		kind, _, err := part.text("type")
		if err != nil {
			return err
		}
		switch {
		case slices.Contains(plain, kind):
		case slices.Contains(opaque, kind):
			r.Opaque = "content of type " + kind
		default:
			return refuse(Invalid, "content of type %.80q is not known here, and may cost: leave it out", kind)
		}
	}
	return nil
}

// contentObjects are what content has that is no string.
func contentObjects(content jsontext.Value) ([]*object, error) {
	if content.Kind() != '[' {
		return nil, errors.New("content: a string or an array is expected")
	}
	all, err := elements(content)
	if err != nil {
		return nil, err
	}
	return objects("content", all)
}

// askForUsage has the stream end with a chunk that says what was used.
func (chat) askForUsage(o *object) error {
	options, err := o.object("stream_options")
	if err != nil {
		return err
	}
	if options == nil {
		options = new(object)
	}
	options.set("include_usage", jsontext.Value("true"))
	o.set("stream_options", options.encode())
	return nil
}

// openAIUsage is usage of chat completions and, with its other names, of responses.
type openAIUsage struct {
	Prompt         *int64      `json:"prompt_tokens"`
	Completion     *int64      `json:"completion_tokens"`
	PromptWith     openAIInput `json:"prompt_tokens_details"`
	CompletionWith struct {
		Reasoning int64 `json:"reasoning_tokens"`
		Audio     int64 `json:"audio_tokens"`
	} `json:"completion_tokens_details"`

	Input      *int64      `json:"input_tokens"`
	Output     *int64      `json:"output_tokens"`
	InputWith  openAIInput `json:"input_tokens_details"`
	OutputWith struct {
		Reasoning int64 `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
}

// openAIInput are parts of the input.
type openAIInput struct {
	Cached      int64 `json:"cached_tokens"`
	Audio       int64 `json:"audio_tokens"`
	Written     int64 `json:"cache_write_tokens"` // "unadjusted": it may be more than what was not cached
	WrittenWith struct {
		Long int64 `json:"ttl_12h_tokens"`
	} `json:"cache_write_tokens_details"`
}

// openAI sets what it says of input and output; parts are of input, reasoning is one of output. A token that was read from a cache and
// written to one counts as written, which is dearer.
func (u *Usage) openAI(input, output *int64, parts openAIInput, reasoning int64) error {
	if input == nil || output == nil {
		return fmt.Errorf("usage names no input or no output")
	}
	if parts.Audio != 0 {
		return fmt.Errorf("usage with %d tokens of audio, which has rates of its own", parts.Audio)
	}
	said := Usage{Input: *input - parts.Cached, CacheRead: parts.Cached, CacheWrite: parts.Written - parts.WrittenWith.Long, CacheWrite1h: parts.WrittenWith.Long, Output: *output, Reasoning: reasoning}
	if err := said.check(); err != nil {
		return err
	}
	said.CacheRead = min(parts.Cached, max(0, *input-parts.Written))
	said.Input = max(0, *input-parts.Written-said.CacheRead)
	*u = said
	return nil
}

// check refuses what cannot be: a provider, or who stands between, that says it is not to be believed.
func (u *Usage) check() error {
	for _, n := range []int64{u.Input, u.CacheRead, u.CacheWrite, u.CacheWrite1h, u.Output, u.Reasoning} {
		if n < 0 || n > maxTokens {
			return fmt.Errorf("usage with a count of %d tokens", n)
		}
	}
	if u.Reasoning > u.Output {
		return fmt.Errorf("usage with %d tokens of reasoning in an output of %d", u.Reasoning, u.Output)
	}
	return nil
}

// usage is in the whole answer, or in the last chunk: on one with no choices, or at some servers on the one that says why the
// answer ends. Some send it on each chunk, cumulative; so what comes later counts, and what ends the stream is [DONE].
func (chat) usage(u *Usage, message []byte) (found, last bool, err error) {
	var m struct {
		Usage *openAIUsage `json:"usage"`
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return false, false, err
	}
	if m.Usage == nil {
		return false, false, nil
	}
	if n := m.Usage.CompletionWith.Audio; n != 0 {
		return false, false, fmt.Errorf("usage with %d tokens of audio, which has rates of its own", n)
	}
	err = u.openAI(m.Usage.Prompt, m.Usage.Completion, m.Usage.PromptWith, m.Usage.CompletionWith.Reasoning)
	return err == nil, false, err
}

// onlyUsage tells the chunk that exists for usage alone.
func onlyUsage(message []byte) bool {
	var m struct {
		Choices []jsontext.Value `json:"choices"`
		Usage   *openAIUsage     `json:"usage"`
	}
	return json.Unmarshal(message, &m) == nil && m.Usage != nil && m.Choices != nil && len(m.Choices) == 0
}
