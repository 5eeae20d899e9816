package dialect

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

// What would be charged at a rate that nobody has named, or more often than it is counted, is refused wherever it stands.
func TestWhatHasNoRateIsRefused(t *testing.T) {
	cases := map[string]struct {
		kind       Kind
		path, body string
		says       string
	}{
		"several passes of a model":          {OpenAI, responsesPath, `{"model":"m","input":"x","reasoning":{"mode":"pro"}}`, "mode"},
		"a mode nobody knows":                {OpenAI, responsesPath, `{"model":"m","input":"x","reasoning":{"swarm":true}}`, "swarm"},
		"several passes elsewhere":           {OpenAICompatible, chatPath, `{"model":"m","messages":[],"reasoning":{"mode":"pro"}}`, "mode"},
		"audio that is heard":                {OpenAI, chatPath, `{"model":"m","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}]}`, "input_audio"},
		"audio of an earlier answer":         {OpenAI, chatPath, `{"model":"m","messages":[{"role":"assistant","audio":{"id":"a"}}]}`, "audio"},
		"audio that is heard, responses":     {OpenAI, responsesPath, `{"model":"m","input":[{"role":"user","content":[{"type":"input_audio"}]}]}`, "input_audio"},
		"audio that is heard, Gemini":        {Gemini, generatePath, `{"contents":[{"parts":[{"inlineData":{"mimeType":"audio/wav","data":""}}]}]}`, "audio/wav"},
		"a film, which has a sound":          {Gemini, generatePath, `{"contents":[{"parts":[{"fileData":{"mimeType":"video/mp4","fileUri":"u"}}]}]}`, "video/mp4"},
		"a film that says it is an image":    {Gemini, generatePath, `{"contents":[{"parts":[{"fileData":{"mimeType":"image/png","fileUri":"https://YouTu.be/x"}}]}]}`, "film"},
		"a file that does not say":           {Gemini, generatePath, `{"contents":[{"parts":[{"fileData":{"fileUri":"u"}}]}]}`, "mimeType"},
		"a file in the other spelling":       {Gemini, generatePath, `{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","mime_type":"audio/wav"}}]}]}`, "mime_type"},
		"audio that a function gave, Gemini": {Gemini, generatePath, `{"contents":[{"parts":[{"functionResponse":{"parts":[{"inlineData":{"mimeType":"audio/wav"}}]}}]}]}`, "audio/wav"},
		"tools that the provider describes":  {Anthropic, messagesPath, `{"model":"m","messages":[],"tools":[{"type":"computer_toolset_20260801"}]}`, "computer_toolset"},
		"a file that a tool elsewhere reads": {OpenAICompatible, chatPath, `{"model":"m","messages":[{"role":"user","content":[{"type":"file","file":{}}]}]}`, "file"},
		"a model that is a folder":           {OpenAI, "/v1/models/..", ``, "endpoint"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			method := http.MethodPost
			if c.body == "" {
				method = http.MethodGet
			}
			_, err := Read(c.kind, method, c.path, []byte(c.body))
			var refusal *Refusal
			if !errors.As(err, &refusal) || !strings.Contains(refusal.Message, c.says) {
				t.Errorf("not refused with %q: %v", c.says, err)
			}
		})
	}
}

// What asks for a cache that is kept for long is refused for a model whose price does not say what that costs.
func TestLongCachesNeedARate(t *testing.T) {
	for name, c := range map[string]struct {
		kind       Kind
		path, body string
		long       bool
	}{
		"a breakpoint":                 {OpenAI, responsesPath, `{"model":"m","max_output_tokens":9,"input":[{"role":"user","content":[{"type":"input_text","text":"x","prompt_cache_breakpoint":{"mode":"explicit","ttl":"12h"}}]}]}`, true},
		"a breakpoint in the output":   {OpenAI, responsesPath, `{"model":"m","max_output_tokens":9,"input":[{"type":"function_call_output","output":[{"type":"input_text","text":"x","prompt_cache_breakpoint":{"mode":"explicit","ttl":"12h"}}]}]}`, true},
		"a breakpoint of a chat":       {OpenAI, chatPath, `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"mode":"explicit","tt\u006c":"12h"}}]}]}`, true},
		"retention":                    {OpenAI, responsesPath, `{"model":"m","max_output_tokens":9,"input":"x","prompt_cache_retention":"24h"}`, true},
		"retention of a chat":          {OpenAI, chatPath, `{"model":"m","max_tokens":9,"messages":[],"prompt_cache_retention":"24h"}`, true},
		"an hour":                      {Anthropic, messagesPath, `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]}]}`, true},
		"an hour of everything":        {Anthropic, messagesPath, `{"model":"m","max_tokens":9,"messages":[],"cache_control":{"type":"ephemeral","ttl":"1h"}}`, true},
		"an hour of a tool":            {Anthropic, messagesPath, `{"model":"m","max_tokens":9,"messages":[],"tools":[{"name":"f","cache_control":{"type":"ephemeral","ttl":"1h"}}]}`, true},
		"the usual time":               {Anthropic, messagesPath, `{"model":"m","max_tokens":9,"messages":[],"cache_control":{"type":"ephemeral","ttl":"5m"}}`, false},
		"the usual breakpoint":         {OpenAI, chatPath, `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"mode":"explicit","ttl":"30m"}}]}]}`, false},
		"in memory":                    {OpenAI, chatPath, `{"model":"m","max_tokens":9,"messages":[],"prompt_cache_retention":"in_memory"}`, false},
		"a tool that has a ttl":        {Anthropic, messagesPath, `{"model":"m","max_tokens":9,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"ttl":"1h"}}]}]}`, false},
		"words about it":               {OpenAI, chatPath, `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"\"prompt_cache_breakpoint\":{\"ttl\":\"12h\"}"}]}`, false},
		"a tool that names the member": {Anthropic, messagesPath, `{"model":"m","max_tokens":9,"messages":[],"tools":[{"name":"f","input_schema":{"properties":{"cache_control":{"type":"string"}}}}]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			unknown := limits
			unknown.NoLongCache = true
			if _, err := read(t, c.kind, c.path, c.body).Prepare(unknown); c.long != (err != nil) {
				t.Errorf("where no rate is known: %v", err)
			}
			if _, err := read(t, c.kind, c.path, c.body).Prepare(limits); err != nil {
				t.Errorf("where one is: %v", err)
			}
		})
	}
}

// A server that does not know the newer name of the limit answers for as long as its model likes.
func TestALimitThatServersIgnoreBoundsNothing(t *testing.T) {
	body := `{"model":"m","messages":[],"max_completion_tokens":50}`
	c, err := read(t, OpenAICompatible, chatPath, body).Prepare(limits)
	if err != nil || c.Bound.Output != limits.Output {
		t.Errorf("bound %+v, %v, expected the model's longest answer", c.Bound, err)
	}
	if _, err := read(t, OpenAICompatible, chatPath, body).Prepare(Limits{Window: 1000}); err == nil {
		t.Error("taken without knowing the model's longest answer")
	}
	both := `{"model":"m","messages":[],"max_completion_tokens":50,"max_tokens":40}`
	if c, err := read(t, OpenAICompatible, chatPath, both).Prepare(limits); err != nil || c.Bound.Output != 50 {
		t.Errorf("bound %+v, %v", c, err)
	}
}

// Thinking that is longer than an answer may be counts where the request leaves it to the gateway how long that is.
func TestThinkingBeyondALimitThatIsSetHere(t *testing.T) {
	c, err := read(t, Anthropic, messagesPath, `{"model":"m","messages":[],"thinking":{"type":"enabled","budget_tokens":100000}}`).Prepare(limits)
	if err != nil || c.Bound.Output < 100_000 {
		t.Errorf("%v", err)
	}
}

// A reference to a tool that was described in the conversation is as long as that description; so is one that normalization makes longer.
func TestBoundsCoverToolsThatCome(t *testing.T) {
	const times, size = 10, 1000
	reference := strings.Repeat(`,{"type":"tool_reference","tool_name":"f"}`, times)
	come := `{"model":"m","max_tokens":30,"messages":[{"role":"system","content":[{"type":"tool_addition","tool":{"type":"tool_definition","definition":{"name":"f","description":"` +
		strings.Repeat("x", size) + `"}}}` + reference + `]}]}`
	c, err := read(t, Anthropic, messagesPath, come).Prepare(limits)
	if err != nil || c.Bound.Input < times*size {
		t.Errorf("at most %d tokens for %d references to %d bytes, %v", c.Bound.Input, times, size, err)
	}
	grows := `{"model":"m","max_tokens":30,"tools":[{"name":"f","description":"` + strings.Repeat("\ufdfa", size) + `"}],"messages":[{"role":"user","content":[` + reference[1:] + `]}]}`
	if c, err = read(t, Anthropic, messagesPath, grows).Prepare(limits); err != nil || c.Bound.Input < times*size*33 {
		t.Errorf("at most %d tokens for references to what becomes %d bytes, %v", c.Bound.Input, size*33, err)
	}
}

// Usage of what has another rate than text is none that can be priced.
func TestUsageOfAudioIsNotPriced(t *testing.T) {
	for name, c := range map[string]struct {
		kind         Kind
		path, answer string
	}{
		"heard":  {OpenAI, chatPath, `{"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"audio_tokens":5}}}`},
		"spoken": {OpenAI, chatPath, `{"usage":{"prompt_tokens":9,"completion_tokens":1,"completion_tokens_details":{"audio_tokens":1}}}`},
		"Gemini": {Gemini, generatePath, `{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":1,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":5}]},"candidates":[{"finishReason":"STOP"}]}`},
		"huge":   {Gemini, generatePath, `{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":9223372036854775807,"thoughtsTokenCount":9223372036854775807,"toolUsePromptTokenCount":0},"candidates":[{"finishReason":"STOP"}]}`},
	} {
		body := `{"model":"m","messages":[]}`
		if c.kind == Gemini {
			body = `{"contents":[]}`
		}
		if _, usage, ok := meter(call(t, c.kind, c.path, body), "application/json", c.answer, 1<<20, true); ok {
			t.Errorf("%s: believed: %+v", name, usage)
		}
	}
}
