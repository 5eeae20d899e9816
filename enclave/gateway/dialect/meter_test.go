package dialect

import (
	"bytes"
	"strings"
	"testing"
)

const events = "text/event-stream; charset=utf-8"

func call(t testing.TB, kind Kind, path, body string) *Call {
	t.Helper()
	r, err := Read(kind, "POST", path, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Prepare(limits)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// meter feeds an answer in pieces of a size and returns what was handed on.
func meter(c *Call, contentType, answer string, size int, whole bool) (string, Usage, bool) {
	m := c.Meter(contentType)
	var out bytes.Buffer
	for rest := []byte(answer); len(rest) > 0; {
		n := min(size, len(rest))
		out.Write(m.Feed(rest[:n]))
		rest = rest[n:]
	}
	rest, usage, ok := m.End(whole)
	out.Write(rest)
	return out.String(), usage, ok
}

const (
	chatAsk     = `{"model":"m","messages":[]}`
	chatStream  = `{"model":"m","messages":[],"stream":true}`
	chatCounted = `{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}`

	chatUsage = `"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":60},"completion_tokens_details":{"reasoning_tokens":5}}`
	chunk     = `data: {"choices":[{"delta":{"content":"our usage of words"}}],"usage":null}` + "\n\n"
	lastChunk = `data: {"choices":[],` + chatUsage + `}` + "\n\n"
	done      = "data: [DONE]\n\n"

	claudeStart = "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"cache_read_input_tokens\":50,\"cache_creation_input_tokens\":30,\"cache_creation\":{\"ephemeral_5m_input_tokens\":10,\"ephemeral_1h_input_tokens\":20},\"output_tokens\":1}}}\r\n\r\n"
	claudeDelta = "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"message_stop\"}}\r\n\r\n"
	claudeUsed  = "event: message_delta\r\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":44}}\r\n\r\n"
	claudeStop  = "event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n"
)

// What answers say was used, whole, in pieces, and cut off.
func TestUsage(t *testing.T) {
	chatUsed := Usage{Input: 40, CacheRead: 60, Output: 20, Reasoning: 5}
	claude := Usage{Input: 9, CacheRead: 50, CacheWrite: 10, CacheWrite1h: 20, Output: 44}
	const responsesUsage = `"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":2},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":1}}`
	cases := map[string]struct {
		kind            Kind
		path, ask       string
		content, answer string
		cut             bool
		want            *Usage // nil: none
	}{
		"chat":                                 {OpenAI, chatPath, chatAsk, "application/json", `{"choices":[{}],` + chatUsage + `}`, false, &chatUsed},
		"chat, cut off":                        {OpenAI, chatPath, chatAsk, "application/json", `{"choices":[{}],` + chatUsage + `}`, true, nil},
		"chat, without usage":                  {OpenAI, chatPath, chatAsk, "application/json", `{"choices":[{}]}`, false, nil},
		"chat, no JSON":                        {OpenAI, chatPath, chatAsk, "application/json", `<html>`, false, nil},
		"chat, two usages":                     {OpenAI, chatPath, chatAsk, "application/json", `{` + chatUsage + `,` + chatUsage + `}`, false, nil},
		"chat, fewer than none":                {OpenAI, chatPath, chatAsk, "application/json", `{"usage":{"prompt_tokens":-5,"completion_tokens":0}}`, false, nil},
		"chat, more cached than there was":     {OpenAI, chatPath, chatAsk, "application/json", `{"usage":{"prompt_tokens":5,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":6}}}`, false, nil},
		"chat, written to a cache":             {OpenAI, chatPath, chatAsk, "application/json", `{"usage":{"prompt_tokens":100,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":40,"cache_write_tokens":50,"cache_write_tokens_details":{"ttl_12h_tokens":20}}}}`, false, &Usage{Input: 10, CacheRead: 40, CacheWrite: 30, CacheWrite1h: 20}},
		"chat, written and read":               {OpenAI, chatPath, chatAsk, "application/json", `{"usage":{"prompt_tokens":100,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":80,"cache_write_tokens":50}}}`, false, &Usage{CacheRead: 50, CacheWrite: 50}},
		"chat, written less than none":         {OpenAI, chatPath, chatAsk, "application/json", `{"usage":{"prompt_tokens":100,"completion_tokens":0,"prompt_tokens_details":{"cache_write_tokens":-50}}}`, false, nil},
		"chat, half a usage":                   {OpenAI, chatPath, chatAsk, "application/json", `{"usage":{"prompt_tokens":5}}`, false, nil},
		"chat, a stream":                       {OpenAI, chatPath, chatStream, events, chunk + lastChunk + done, false, &chatUsed},
		"chat, a stream cut after its end":     {OpenAI, chatPath, chatStream, events, chunk + lastChunk + done, true, &chatUsed},
		"chat, a stream cut before its end":    {OpenAI, chatPath, chatStream, events, chunk + lastChunk, true, nil},
		"chat, a stream without its end":       {OpenAI, chatPath, chatStream, events, chunk + lastChunk, false, &chatUsed},
		"chat, a stream without usage":         {OpenAI, chatPath, chatStream, events, chunk + done, false, nil},
		"chat, usage on the chunk that ends":   {OpenAICompatible, chatPath, chatStream, events, `data: {"choices":[{"finish_reason":"stop"}],` + chatUsage + "}\n\n" + done, false, &chatUsed},
		"chat, usage that grows":               {OpenAICompatible, chatPath, chatStream, events, `data: {"choices":[{}],"usage":{"prompt_tokens":1,"completion_tokens":1}}` + "\n\n" + lastChunk + done, false, &chatUsed},
		"chat, an event in several lines":      {OpenAI, chatPath, chatStream, events, "data: {\"choices\":[],\ndata:" + chatUsage + "}\n\n" + done, false, &chatUsed},
		"chat, comments between":               {OpenAI, chatPath, chatStream, events, ": ping\n\n" + lastChunk + ": ping\n\n" + done, false, &chatUsed},
		"chat, the last line unended":          {OpenAI, chatPath, chatStream, events, strings.TrimRight(lastChunk, "\n"), false, &chatUsed},
		"responses":                            {OpenAI, responsesPath, `{"model":"m"}`, "application/json", `{"object":"response",` + responsesUsage + `}`, false, &Usage{Input: 5, CacheRead: 2, Output: 3, Reasoning: 1}},
		"responses, a stream":                  {OpenAI, responsesPath, `{"model":"m","stream":true}`, events, `data: {"type":"response.created","response":{"usage":null}}` + "\n\n" + `data: {"type":"response.completed","response":{` + responsesUsage + `}}` + "\n\n", true, &Usage{Input: 5, CacheRead: 2, Output: 3, Reasoning: 1}},
		"responses, a stream that was limited": {OpenAI, responsesPath, `{"model":"m","stream":true}`, events, `data: {"type":"response.incomplete","response":{` + responsesUsage + `}}` + "\n\n", false, &Usage{Input: 5, CacheRead: 2, Output: 3, Reasoning: 1}},
		"responses, an item that speaks of it": {OpenAI, responsesPath, `{"model":"m","stream":true}`, events, `data: {"type":"response.output_item.done",` + responsesUsage + `}` + "\n\n", false, nil},
		"messages":                             {Anthropic, messagesPath, `{"model":"m"}`, "application/json", `{"type":"message","usage":{"input_tokens":9,"cache_read_input_tokens":50,"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_1h_input_tokens":20},"output_tokens":44}}`, false, &claude},
		"messages, a stream":                   {Anthropic, messagesPath, `{"model":"m","stream":true}`, events, claudeStart + claudeDelta + claudeUsed + claudeStop, false, &claude},
		"messages, cut before it stops":        {Anthropic, messagesPath, `{"model":"m","stream":true}`, events, claudeStart + claudeDelta + claudeUsed, true, nil},
		"messages, cut in the middle":          {Anthropic, messagesPath, `{"model":"m","stream":true}`, events, claudeStart + claudeDelta, true, nil},
		"messages, an end without a beginning": {Anthropic, messagesPath, `{"model":"m","stream":true}`, events, claudeUsed + claudeStop, false, nil},
		"messages, an error in the stream":     {Anthropic, messagesPath, `{"model":"m","stream":true}`, events, claudeStart + "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n", false, nil},
		"generate":                             {Gemini, generatePath, `{"contents":[]}`, "application/json", `{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,"cachedContentTokenCount":4,"candidatesTokenCount":3,"thoughtsTokenCount":2}}`, false, &Usage{Input: 6, CacheRead: 4, Output: 5, Reasoning: 2}},
		"generate, refused by the model":       {Gemini, generatePath, `{"contents":[]}`, "application/json", `{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":10}}`, false, &Usage{Input: 10}},
		"generate, a stream":                   {Gemini, streamPath, `{"contents":[]}`, events, "data: {\"candidates\":[{}],\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":1}}\r\n\r\ndata: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":3}}\r\n\r\n", false, &Usage{Input: 10, Output: 3}},
		"generate, a stream that breaks off":   {Gemini, streamPath, `{"contents":[]}`, events, "data: {\"candidates\":[{}],\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":1}}\r\n\r\n", false, nil},
		"generate, a stream as an array":       {Gemini, streamPath, `{"contents":[]}`, "application/json", `[{"candidates":[{}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1}},{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":3}}]`, false, &Usage{Input: 10, Output: 3}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			call := call(t, c.kind, c.path, c.ask)
			for _, size := range []int{1, 2, 7, 64, 1 << 20} {
				out, usage, ok := meter(call, c.content, c.answer, size, !c.cut)
				if ok != (c.want != nil) || ok && usage != *c.want {
					t.Fatalf("in pieces of %d: %+v, %v; expected %+v", size, usage, ok, c.want)
				}
				if !call.hide && out != c.answer {
					t.Errorf("in pieces of %d: handed on %q, expected all", size, out)
				}
			}
		})
	}
}

// The chunk with usage reaches the client that asked for it, and no other.
func TestTheUsageChunkIsForWhoAskedForIt(t *testing.T) {
	answer := chunk + lastChunk + done
	for ask, want := range map[string]string{chatStream: chunk + done, chatCounted: answer} {
		for size := 1; size <= len(answer); size++ {
			out, _, ok := meter(call(t, OpenAI, chatPath, ask), events, answer, size, true)
			if out != want || !ok {
				t.Fatalf("%s in pieces of %d: %q, %v", ask, size, out, ok)
			}
		}
	}
}

// What is too large to be looked at is handed on whole, and leaves no usage.
func TestAnswersBeyondTheBounds(t *testing.T) {
	event := "data: {\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("x", maxEvent) + "\"}}]}\n\n"
	for name, c := range map[string]struct{ ask, content, answer string }{
		"an event":   {chatStream, events, chunk + event + lastChunk + done},
		"a document": {chatAsk, "application/json", `{"x":"` + strings.Repeat("x", maxAnswer) + `",` + chatUsage + `}`},
	} {
		for _, size := range []int{1000, 1 << 16, 1 << 25} {
			out, _, ok := meter(call(t, OpenAI, chatPath, c.ask), c.content, c.answer, size, true)
			if ok {
				t.Errorf("%s in pieces of %d: metered", name, size)
			}
			if out != c.answer {
				t.Errorf("%s in pieces of %d: %d bytes of %d handed on", name, size, len(out), len(c.answer))
			}
		}
	}
}

func FuzzMeter(f *testing.F) {
	f.Add(chunk+lastChunk+done, 3)
	f.Add(claudeStart+claudeUsed+claudeStop, 10)
	f.Add("data: {\"usage\"\n\r\n:x\n\ndata:", 1)
	asks := []struct {
		kind      Kind
		path, ask string
	}{{OpenAI, chatPath, chatStream}, {OpenAI, chatPath, chatCounted}, {OpenAI, responsesPath, `{"model":"m"}`}, {Anthropic, messagesPath, `{"model":"m"}`}, {Gemini, streamPath, `{"contents":[]}`}}
	f.Fuzz(func(t *testing.T, answer string, size int) {
		size = 1 + int(uint(size)%uint(len(answer)+1))
		for _, a := range asks {
			c := call(t, a.kind, a.path, a.ask)
			for _, content := range []string{events, "application/json"} {
				whole, usage, ok := meter(c, content, answer, len(answer)+1, true)
				pieces, again, same := meter(c, content, answer, size, true)
				if whole != pieces || usage != again || ok != same {
					t.Fatalf("%s: at once %q %+v %v, in pieces of %d %q %+v %v", a.path, whole, usage, ok, size, pieces, again, same)
				}
				if !c.hide && whole != answer {
					t.Fatalf("%s: %q handed on of %q", a.path, whole, answer)
				}
				if usage.Total() < 0 {
					t.Fatalf("%+v", usage)
				}
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	body := []byte(`{"model":"m","max_tokens":100,"messages":[` + strings.Repeat(`{"role":"user","content":"`+strings.Repeat("some words ", 90)+`"},`, 99) + `{"role":"user","content":"x"}]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(Anthropic, "POST", messagesPath, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMeter(b *testing.B) {
	c := call(b, OpenAI, chatPath, chatStream)
	answer := strings.Repeat(`data: {"id":"c","choices":[{"delta":{"content":"word"}}]}`+"\n\n", 1000) + lastChunk + done
	b.SetBytes(int64(len(answer)))
	for b.Loop() {
		if _, _, ok := meter(c, events, answer, 1400, true); !ok {
			b.Fatal("not metered")
		}
	}
}
