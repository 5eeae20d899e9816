package dialect

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
)

const (
	chatPath      = "/v1/chat/completions"
	responsesPath = "/v1/responses"
	messagesPath  = "/v1/messages"
	generatePath  = "/v1beta/models/gemini-x:generateContent"
	streamPath    = "/v1beta/models/gemini-x:streamGenerateContent"
)

var limits = Limits{Window: 200_000, Output: 8_000}

func read(t *testing.T, kind Kind, path, body string) *Request {
	t.Helper()
	r, err := Read(kind, http.MethodPost, path, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What bounds the cost of a request, and what of it is set before it leaves.
func TestBounds(t *testing.T) {
	cases := map[string]struct {
		kind       Kind
		path, body string
		opaque     string // part of what the request says of it
		output     int64
		sent       []string // parts of the body that is sent; nil: it is as it came
	}{
		"chat, nothing said": {OpenAI, chatPath, `{"model":"m","messages":[{"role":"user","content":"hello"}]}`, "", 8000,
			[]string{`"max_completion_tokens":8000`}},
		"chat elsewhere, nothing said": {OpenAICompatible, chatPath, `{"model":"m","messages":[]}`, "", 8000, []string{`"max_tokens":8000`}},
		"chat, a limit":                {OpenAI, chatPath, `{"model":"m","messages":[],"max_completion_tokens":50}`, "", 50, nil},
		"chat, two limits":             {OpenAI, chatPath, `{"model":"m","messages":[],"max_completion_tokens":50,"max_tokens":70}`, "", 70, nil},
		"chat, several choices":        {OpenAI, chatPath, `{"model":"m","messages":[],"max_tokens":70,"n":3}`, "", 210, nil},
		"chat, a limit of null":        {OpenAI, chatPath, `{"model":"m","messages":[],"max_completion_tokens":null}`, "", 8000, []string{`"max_completion_tokens":8000`}},
		"chat, a stream": {OpenAI, chatPath, `{"model":"m","messages":[],"max_tokens":7,"stream":true}`, "", 7,
			[]string{`"stream_options":{"include_usage":true}`}},
		"chat, a stream with options": {OpenAI, chatPath, `{"model":"m","messages":[],"max_tokens":7,"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":false}}`, "", 7,
			[]string{`"stream_options":{"include_obfuscation":false,"include_usage":true}`}},
		"chat, an image": {OpenAI, chatPath, `{"model":"m","max_tokens":7,"messages":[{"role":"user","content":[{"type":"text","text":"x"},{"type":"image_url","image_url":{"url":"https://x/"}}]}]}`, "image_url", 7, nil},
		"chat, a file":   {OpenAI, chatPath, `{"model":"m","max_tokens":7,"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"f"}}]}]}`, "file", 7, nil},
		"chat, numbers keep their digits": {OpenAI, chatPath, `{"model":"m","messages":[],"seed":12345678901234567890,"temperature":0.10}`, "", 8000,
			[]string{`"seed":12345678901234567890`, `"temperature":0.10`}},

		"responses, nothing said": {OpenAI, responsesPath, `{"model":"m","input":"hello"}`, "", 8000, []string{`"max_output_tokens":8000`}},
		"responses, a stored one": {OpenAI, responsesPath, `{"model":"m","input":"x","max_output_tokens":9,"previous_response_id":"r"}`, "previous_response_id", 9, nil},
		"responses, items":        {OpenAI, responsesPath, `{"model":"m","max_output_tokens":9,"input":[{"role":"user","content":"x"},{"type":"function_call","name":"f","arguments":"{}","call_id":"1"},{"type":"function_call_output","call_id":"1","output":"x"}]}`, "", 9, nil},
		"responses, reasoning":    {OpenAI, responsesPath, `{"model":"m","max_output_tokens":9,"input":[{"type":"reasoning","encrypted_content":"x","summary":[]}]}`, "reasoning", 9, nil},
		"responses, an image of a tool": {OpenAI, responsesPath,
			`{"model":"m","max_output_tokens":9,"input":[{"type":"function_call_output","call_id":"1","output":[{"type":"input_image","file_id":"f"}]}]}`, "input_image", 9, nil},

		"messages":         {Anthropic, messagesPath, `{"model":"m","max_tokens":30,"messages":[{"role":"user","content":"hello"}]}`, "", 30, nil},
		"messages, no max": {Anthropic, messagesPath, `{"model":"m","messages":[{"role":"user","content":"hello"}]}`, "", 8000, []string{`"max_tokens":8000`}},
		"messages, an image in the result of a tool": {Anthropic, messagesPath,
			`{"model":"m","max_tokens":30,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{}}]}]}]}`, "image", 30, nil},
		"messages, thinking":                        {Anthropic, messagesPath, `{"model":"m","max_tokens":30,"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"x"}]}]}`, "thinking", 30, nil},
		"messages, a document in the system prompt": {Anthropic, messagesPath, `{"model":"m","max_tokens":30,"messages":[],"system":[{"type":"document","source":{}}]}`, "document", 30, nil},

		"messages, thinking beyond the limit": {Anthropic, messagesPath, `{"model":"m","max_tokens":30,"messages":[],"thinking":{"type":"enabled","budget_tokens":1024}}`, "", 1054, nil},
		"messages, thinking within the limit": {Anthropic, messagesPath, `{"model":"m","max_tokens":3000,"messages":[],"thinking":{"type":"enabled","budget_tokens":1024}}`, "", 3000, nil},

		"messages, a system message with another effort": {Anthropic, messagesPath, `{"model":"m","max_tokens":30,"messages":[{"role":"system","content":"x","output_config":{"effort":"low"},"clear_at":"never"}]}`, "", 30, nil},
		"messages, a tool that comes":                    {Anthropic, messagesPath, `{"model":"m","max_tokens":30,"messages":[{"role":"system","content":[{"type":"tool_addition","tool":{"type":"tool_definition","definition":{"name":"f","input_schema":{}}}}]}]}`, "", 30, nil},
		"messages, a tool that goes":                     {Anthropic, messagesPath, `{"model":"m","max_tokens":30,"tools":[{"name":"f"}],"messages":[{"role":"system","content":[{"type":"tool_removal","tool":{"type":"tool_reference","tool_name":"f"}}]}]}`, "", 30, nil},
		"messages, a tool that was found":                {Anthropic, messagesPath, `{"model":"m","max_tokens":30,"tools":[{"name":"f","defer_loading":true}],"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"tool_reference","tool_name":"f"}]}]}]}`, "", 30, nil},
		"responses, tools with a common name":            {OpenAI, responsesPath, `{"model":"m","max_output_tokens":9,"tools":[{"type":"namespace","name":"n","description":"d","tools":[{"type":"function","name":"f"}]}]}`, "", 9, nil},

		"generate, the older version": {Gemini, "/v1/models/gemini-x:generateContent", `{"contents":[]}`, "", 8000, []string{`"maxOutputTokens":8000`}},

		"generate":             {Gemini, generatePath, `{"contents":[{"parts":[{"text":"hello"}]}]}`, "", 8000, []string{`"generationConfig":{"maxOutputTokens":8000}`}},
		"generate, configured": {Gemini, generatePath, `{"contents":[],"generationConfig":{"temperature":1}}`, "", 8000, []string{`{"temperature":1,"maxOutputTokens":8000}`}},
		"generate, candidates": {Gemini, generatePath, `{"contents":[],"generationConfig":{"candidateCount":4,"maxOutputTokens":10}}`, "", 40, nil},
		"generate, a file":     {Gemini, streamPath, `{"contents":[{"parts":[{"fileData":{"mimeType":"image/png","fileUri":"u"}}]}],"generationConfig":{"maxOutputTokens":10}}`, "fileData", 10, nil},
		"generate, parts of a function's answer": {Gemini, generatePath,
			`{"contents":[{"parts":[{"functionResponse":{"name":"f","response":{},"parts":[{"inlineData":{"mimeType":"image/png"}}]}}]}],"generationConfig":{"maxOutputTokens":10}}`, "functionResponse", 10, nil},
		"generate, a function's answer": {Gemini, generatePath,
			`{"contents":[{"parts":[{"functionResponse":{"name":"f","response":{"x":"y"}}}]}],"generationConfig":{"maxOutputTokens":10}}`, "", 10, nil},
		"generate, a cache": {Gemini, generatePath, `{"contents":[],"cachedContent":"c","generationConfig":{"maxOutputTokens":10}}`, "cache", 10, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := read(t, c.kind, c.path, c.body)
			if c.opaque == "" && r.Opaque != "" || !strings.Contains(r.Opaque, c.opaque) {
				t.Errorf("opaque %q, expected %q", r.Opaque, c.opaque)
			}
			call, err := r.Prepare(limits)
			if err != nil {
				t.Fatal(err)
			}
			if call.Bound.Output != c.output {
				t.Errorf("output of at most %d tokens, expected %d", call.Bound.Output, c.output)
			}
			switch {
			case c.opaque != "" && call.Bound.Input < limits.Window:
				t.Errorf("input of at most %d tokens, though it is opaque", call.Bound.Input)
			case c.opaque == "" && (call.Bound.Input < int64(len(c.body)) || call.Bound.Input >= limits.Window):
				t.Errorf("input of at most %d tokens for %d bytes", call.Bound.Input, len(c.body))
			}
			if c.sent == nil && string(call.Body) != c.body {
				t.Errorf("sent %s, expected what came", call.Body)
			}
			if !json.Valid(call.Body) {
				t.Errorf("sent %s, which is no JSON", call.Body)
			}
			for _, part := range c.sent {
				if !strings.Contains(string(call.Body), part) {
					t.Errorf("sent %s without %s", call.Body, part)
				}
			}
		})
	}
}

// What may cost what nobody has counted is refused, and says what it is.
func TestRefused(t *testing.T) {
	cases := map[string]struct {
		kind               Kind
		method, path, body string
		reason             Reason
		says               string
	}{
		"an endpoint":                         {OpenAI, "POST", "/v1/batches", `{}`, NotFound, "/v1/chat/completions"},
		"a method":                            {OpenAI, "GET", chatPath, ``, NotFound, "GET"},
		"a path like one":                     {OpenAI, "POST", "/v1//chat/completions", `{}`, NotFound, ""},
		"a model's escape":                    {Gemini, "POST", "/v1beta/models/a%2fb:generateContent", `{}`, NotFound, ""},
		"a tuned model":                       {Gemini, "POST", "/v1beta/models/a/b:generateContent", `{}`, NotFound, ""},
		"another's endpoint":                  {Anthropic, "POST", chatPath, `{}`, NotFound, messagesPath},
		"a model that has no name":            {OpenAI, "POST", chatPath, `{"messages":[]}`, Invalid, "model"},
		"a model that is none":                {OpenAI, "POST", chatPath, `{"model":7}`, Invalid, "model"},
		"two models":                          {OpenAI, "POST", chatPath, `{"model":"cheap","model":"dear"}`, Invalid, "one way only"},
		"two models, one of them escaped":     {OpenAI, "POST", chatPath, `{"model":"cheap","mod\u0065l":"dear"}`, Invalid, "one way only"},
		"two contents of a message":           {OpenAI, "POST", chatPath, `{"model":"m","messages":[{"role":"user","content":"x","content":[]}]}`, Invalid, "one way only"},
		"a model in other letters":            {OpenAI, "POST", chatPath, `{"model":"m","Model":"dear"}`, Invalid, "Model"},
		"bytes that are not UTF-8":            {OpenAI, "POST", chatPath, "{\"model\":\"m\xff\"}", Invalid, "one way only"},
		"something behind":                    {OpenAI, "POST", chatPath, `{"model":"m"}{}`, Invalid, "one way only"},
		"an array":                            {OpenAI, "POST", chatPath, `[]`, Invalid, "no object"},
		"nothing":                             {OpenAI, "POST", chatPath, ``, Invalid, ""},
		"a limit of no tokens":                {OpenAI, "POST", chatPath, `{"model":"m","max_tokens":0}`, Invalid, "max_tokens"},
		"a limit below zero":                  {OpenAI, "POST", chatPath, `{"model":"m","max_tokens":-1}`, Invalid, "max_tokens"},
		"a limit that is no whole number":     {OpenAI, "POST", chatPath, `{"model":"m","max_tokens":1e9}`, Invalid, "max_tokens"},
		"a limit in words":                    {OpenAI, "POST", chatPath, `{"model":"m","max_tokens":"10"}`, Invalid, "max_tokens"},
		"choices without end":                 {OpenAI, "POST", chatPath, `{"model":"m","n":99999999999999999999}`, Invalid, "n:"},
		"a stream that is perhaps one":        {OpenAI, "POST", chatPath, `{"model":"m","stream":"true"}`, Invalid, "stream"},
		"a dearer tier":                       {OpenAI, "POST", chatPath, `{"model":"m","service_tier":"priority"}`, Invalid, "service_tier"},
		"a tier that another settles":         {OpenAI, "POST", chatPath, `{"model":"m","service_tier":"auto"}`, Invalid, "service_tier"},
		"searching the web":                   {OpenAI, "POST", chatPath, `{"model":"m","web_search_options":{}}`, Invalid, "web_search_options"},
		"answers in audio":                    {OpenAI, "POST", chatPath, `{"model":"m","modalities":["text","audio"]}`, Invalid, "audio"},
		"a tool of the provider":              {OpenAI, "POST", responsesPath, `{"model":"m","tools":[{"type":"web_search"}]}`, Invalid, "web_search"},
		"tools within a tool":                 {OpenAI, "POST", responsesPath, `{"model":"m","tools":[{"type":"namespace","tools":[{"type":"web_search"}]}]}`, Invalid, "web_search"},
		"tools within tools within a tool":    {OpenAI, "POST", responsesPath, `{"model":"m","tools":[{"type":"namespace","tools":[{"type":"namespace","tools":[]}]}]}`, Invalid, "namespace"},
		"a namespace with more":               {OpenAI, "POST", responsesPath, `{"model":"m","tools":[{"type":"namespace","tools":[],"server_url":"https://x"}]}`, Invalid, "server_url"},
		"a server of tools":                   {OpenAI, "POST", responsesPath, `{"model":"m","tools":[{"type":"mcp","server_url":"https://x"}]}`, Invalid, "mcp"},
		"work in the background":              {OpenAI, "POST", responsesPath, `{"model":"m","background":true}`, Invalid, "background"},
		"a stored prompt":                     {OpenAI, "POST", responsesPath, `{"model":"m","prompt":{"id":"p"}}`, Invalid, "prompt"},
		"an item that is not known":           {OpenAI, "POST", responsesPath, `{"model":"m","input":[{"type":"image_generation_call"}]}`, Invalid, "image_generation_call"},
		"content that is not known":           {OpenAI, "POST", chatPath, `{"model":"m","messages":[{"role":"user","content":[{"type":"video"}]}]}`, Invalid, "video"},
		"content that is no content":          {OpenAI, "POST", chatPath, `{"model":"m","messages":[{"role":"user","content":{"type":"text"}}]}`, Invalid, "content"},
		"messages that are none":              {OpenAI, "POST", chatPath, `{"model":"m","messages":{"0":"x"}}`, Invalid, "messages"},
		"searching the web, Anthropic":        {Anthropic, "POST", messagesPath, `{"model":"m","tools":[{"type":"web_search_20250305","name":"web_search"}]}`, Invalid, "web_search"},
		"running code at the provider":        {Anthropic, "POST", messagesPath, `{"model":"m","container":"c"}`, Invalid, "container"},
		"servers of tools, Anthropic":         {Anthropic, "POST", messagesPath, `{"model":"m","mcp_servers":[]}`, Invalid, "mcp_servers"},
		"a fast mode":                         {Anthropic, "POST", messagesPath, `{"model":"m","speed":"fast"}`, Invalid, "speed"},
		"a place that costs more":             {Anthropic, "POST", messagesPath, `{"model":"m","inference_geo":"us"}`, Invalid, "inference_geo"},
		"asking a model to shorten the input": {Anthropic, "POST", messagesPath, `{"model":"m","context_management":{"edits":[{"type":"compact_20260112"}]}}`, Invalid, "compact"},
		"a tool of the provider that comes":   {Anthropic, "POST", messagesPath, `{"model":"m","messages":[{"role":"system","content":[{"type":"tool_addition","tool":{"type":"tool_definition","definition":{"type":"web_search_20250305","name":"w"}}}]}]}`, Invalid, "web_search"},
		"a server's tool that comes":          {Anthropic, "POST", messagesPath, `{"model":"m","messages":[{"role":"system","content":[{"type":"tool_addition","tool":{"type":"mcp_toolset_reference"}}]}]}`, Invalid, "mcp_toolset"},
		"more than an effort":                 {Anthropic, "POST", messagesPath, `{"model":"m","messages":[{"role":"system","content":"x","output_config":{"speed":"fast"}}]}`, Invalid, "speed"},
		"a conversation that is kept":         {Anthropic, "POST", messagesPath, `{"model":"m","thread":{"type":"create"}}`, Invalid, "send all of it"},
		"batches":                             {Anthropic, "POST", "/v1/messages/batches", `{}`, NotFound, messagesPath},
		"searching the web, Gemini":           {Gemini, "POST", generatePath, `{"contents":[],"tools":[{"googleSearch":{}}]}`, Invalid, "googleSearch"},
		"names in the other spelling":         {Gemini, "POST", generatePath, `{"contents":[],"generation_config":{"max_output_tokens":9}}`, Invalid, "maxOutputTokens"},
		"answers in audio, Gemini":            {Gemini, "POST", generatePath, `{"contents":[],"generationConfig":{"responseModalities":["AUDIO"]}}`, Invalid, "responseModalities"},
		"a part that is not known":            {Gemini, "POST", generatePath, `{"contents":[{"parts":[{"codeExecution":{}}]}]}`, Invalid, "codeExecution"},
		"candidates of a stream":              {Gemini, "POST", streamPath, `{"contents":[],"generationConfig":{"candidateCount":2}}`, Invalid, "candidateCount"},
		"a kind that is not known":            {"telepathy", "POST", chatPath, `{}`, NotFound, ""},
		"too much":                            {OpenAI, "POST", chatPath, strings.Repeat(" ", MaxBody+1), TooLarge, "bytes"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Read(c.kind, c.method, c.path, []byte(c.body))
			var refusal *Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("not refused: %v", err)
			}
			if refusal.Reason != c.reason || !strings.Contains(refusal.Message, c.says) {
				t.Errorf("refused with %d %q, expected %d with %q", refusal.Reason, refusal.Message, c.reason, c.says)
			}
		})
	}
}

// What a tokenizer makes longer before it counts is bounded by what it becomes.
func TestBoundsCoverNormalization(t *testing.T) {
	for name, one := range map[string]string{"as it is": "\ufdfa", "escaped": `\ufdfa`} {
		body := `{"model":"m","max_tokens":7,"messages":[{"role":"user","content":"` + strings.Repeat(one, 1000) + `"}]}`
		call, err := read(t, OpenAICompatible, chatPath, body).Prepare(limits)
		if err != nil {
			t.Fatal(err)
		}
		if call.Bound.Input < 33_000 {
			t.Errorf("%s: at most %d tokens for 1000 characters that become 33 bytes each", name, call.Bound.Input)
		}
	}
}

// A reference to a tool is as long as what it refers to, wherever it stands and however often.
func TestBoundsCoverReferencesToTools(t *testing.T) {
	const times, size = 10, 1000
	reference := `{"type":"tool_reference","tool_name":"f"}`
	body := `{"model":"m","max_tokens":30,"tools":[{"name":"f","description":"` + strings.Repeat("x", size) + `"}],"messages":[{"role":"user","content":[` +
		reference + strings.Repeat(","+reference, times-1) + `]}]}`
	call, err := read(t, Anthropic, messagesPath, body).Prepare(limits)
	if err != nil || call.Bound.Input < times*size {
		t.Errorf("at most %d tokens for %d references to %d bytes, %v", call.Bound.Input, times, size, err)
	}
}

func TestFreeRequestsPassAsTheyAre(t *testing.T) {
	for path, kind := range map[string]Kind{"/v1/messages/count_tokens": Anthropic, "/v1beta/models/x:countTokens": Gemini} {
		r := read(t, kind, path, `{ "anything": 1 }`)
		call, err := r.Prepare(Limits{})
		if err != nil || !r.Free || string(call.Body) != `{ "anything": 1 }` || call.Bound != (Bound{}) {
			t.Errorf("%s: %+v, %v", path, call, err)
		}
	}
	if r, err := Read(OpenAI, http.MethodGet, "/v1/models", nil); err != nil || !r.Free {
		t.Errorf("the list of models: %+v, %v", r, err)
	}
}

// TestWhatNeedsTheModelsLimits: a call without a limit of its own needs that of the model's answers, and one with content whose tokens
// nobody can count the model's window; others are bounded by their bytes.
func TestWhatNeedsTheModelsLimits(t *testing.T) {
	const image = `[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a.example/b.png"}}]}]`
	for _, tt := range []struct {
		body           string
		window, output bool // needed
	}{
		{`{"model":"m","messages":[],"max_tokens":7}`, false, false},
		{`{"model":"m","messages":[]}`, false, true},
		{`{"model":"m","messages":` + image + `,"max_tokens":7}`, true, false},
		{`{"model":"m","messages":` + image + `}`, true, true},
	} {
		for _, l := range []Limits{{}, {Window: 1000}, {Output: 1000}, {Window: 1000, Output: 1000}} {
			_, err := read(t, OpenAI, chatPath, tt.body).Prepare(l)
			if refused := tt.window && l.Window == 0 || tt.output && l.Output == 0; refused != (err != nil) {
				t.Errorf("%s with %+v: %v", tt.body, l, err)
			}
		}
	}
}

// Each kind's clients read a refusal as an error of their provider.
func TestRefusalsLookAsTheProvidersDo(t *testing.T) {
	cases := []struct {
		kind   Kind
		reason Reason
		want   string
		retry  string
	}{
		{OpenAI, Exhausted, `"code":"insufficient_quota"`, "false"},
		{OpenAICompatible, RateLimited, `"code":"rate_limit_exceeded"`, "true"},
		{Anthropic, Exhausted, `"type":"billing_error"`, "false"},
		{Anthropic, RateLimited, `"type":"rate_limit_error"`, "true"},
		{Anthropic, NotFound, `"type":"not_found_error"`, "false"},
		{Gemini, RateLimited, `"status":"RESOURCE_EXHAUSTED"`, "true"},
		{Gemini, Invalid, `"status":"INVALID_ARGUMENT"`, "false"},
	}
	for _, c := range cases {
		r := refuse(c.reason, "no more than $5")
		r.RetryAfter = 1500e6
		status, header, body := r.Response(c.kind)
		if status != int(c.reason) || !json.Valid(body) || !strings.Contains(string(body), c.want) || !strings.Contains(string(body), "no more than $5") {
			t.Errorf("%s %d: %d %s", c.kind, c.reason, status, body)
		}
		if header.Get("X-Should-Retry") != c.retry || header.Get("Retry-After") != "2" {
			t.Errorf("%s %d: %v", c.kind, c.reason, header)
		}
	}
}

// SDKs that keep a conversation at the provider send all of it when they are told so in the provider's words.
func TestThreadsAreRefusedSoThatSDKsGoOn(t *testing.T) {
	_, err := Read(Anthropic, http.MethodPost, messagesPath, []byte(`{"model":"m","thread":{"type":"continue","previous_message_id":"x"}}`))
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Fatal(err)
	}
	if _, _, body := refusal.Response(Anthropic); !strings.Contains(string(body), `"details":{"error_code":"thread_unsupported_request"`) {
		t.Errorf("%s", body)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(0, chatPath, `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"stream":true,"tools":[{"type":"function"}]}`)
	f.Add(0, responsesPath, `{"model":"m","input":[{"type":"message","content":"x"}],"tools":[]}`)
	f.Add(1, messagesPath, `{"model":"m","system":[{"type":"text"}],"messages":[{"role":"user","content":[{"type":"tool_result","content":"x"}]}]}`)
	f.Add(2, generatePath, `{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"maxOutputTokens":1},"tools":[{"functionDeclarations":[]}]}`)
	f.Fuzz(func(t *testing.T, kind int, path, body string) {
		k := Kinds()[uint(kind)%uint(len(Kinds()))]
		r, err := Read(k, http.MethodPost, path, []byte(body))
		if err != nil {
			var refusal *Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("%v is no refusal", err)
			}
			return
		}
		call, err := r.Prepare(limits)
		if err != nil || r.Free {
			return
		}
		if call.Bound.Input < int64(len(body)) || call.Bound.Output <= 0 {
			t.Fatalf("bound %+v of %q", call.Bound, body)
		}
		// What is sent says the same again, and leaves nothing open.
		again, err := Read(k, http.MethodPost, path, call.Body)
		if err != nil {
			t.Fatalf("what is sent is refused: %v: %q", err, call.Body)
		}
		once, err := again.Prepare(limits)
		if err != nil || again.Model != r.Model || again.Stream != r.Stream || once.Bound.Output != call.Bound.Output {
			t.Fatalf("%q says %+v, sent %q says %+v", body, r, call.Body, again)
		}
	})
}
