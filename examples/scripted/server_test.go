package scripted

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var twoSteps = &Script{Answer: "The end.", Steps: []Step{
	{Name: "one", Tool: "exec", Arguments: map[string]any{"command": "true"}},
	{Name: "two", Tool: "exec", Arguments: map[string]any{"command": "false"}},
}}

// TestServerReplies: the reply depends on the results in the request alone, in the forms that real agents send.
func TestServerReplies(t *testing.T) {
	const tools = `"tools":[{"type":"function","function":{"name":"exec"}}]`
	const first = `{"role":"tool","tool_call_id":"callscripted0000","content":"fine"}`
	const rewritten = `{"role":"tool","tool_call_id":"call_scripted_0001","content":[{"type":"text","text":"also fine"}]}`
	const named = `"tools":[{"type":"function","name":"exec"}]` // responses and messages
	const output = `{"type":"function_call_output","call_id":"callscripted0000","output":"fine"}`
	const blocks = `{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_callscripted0000","content":[{"type":"text","text":"fine"}]}]}`
	for _, test := range []struct{ name, api, request, want string }{
		{"no tools", "chat/completions", `{"messages":[]}`, `"content":"scripted"`},
		{"start", "chat/completions", `{` + tools + `,"messages":[{"role":"user","content":"go"}]}`, `"callscripted0000"`},
		{"after the first", "chat/completions", `{` + tools + `,"messages":[` + first + `]}`, `"callscripted0001"`},
		{"the same again", "chat/completions", `{` + tools + `,"messages":[` + first + `]}`, `"callscripted0001"`},
		{"a call of somebody else", "chat/completions", `{` + tools + `,"messages":[{"role":"tool","tool_call_id":"x","content":""}]}`, `"callscripted0000"`},
		{"parts and a rewritten id", "chat/completions", `{` + tools + `,"messages":[` + first + `,` + rewritten + `]}`, `"content":"The end."`},
		{"in another order", "chat/completions", `{` + tools + `,"messages":[` + rewritten + `,` + first + `]}`, `"content":"The end."`},
		{"streamed", "chat/completions", `{"stream":true,` + tools + `,"messages":[]}`, "data: [DONE]"},
		{"malformed", "chat/completions", `{`, "malformed"},
		{"responses", "responses", `{` + named + `,"input":"go"}`, `"call_id":"callscripted0000"`},
		{"responses, after the first", "responses", `{` + named + `,"input":[{"type":"message"},` + output + `]}`, `"call_id":"callscripted0001"`},
		{"responses, streamed", "responses", `{"stream":true,` + named + `,"input":[]}`, "event: response.completed"},
		{"responses, malformed", "responses", `[]`, "malformed"},
		{"messages", "messages", `{` + named + `,"messages":[{"role":"user","content":"go"}]}`, `"input":{"command":"true"}`},
		{"messages, after the first", "messages", `{` + named + `,"messages":[` + blocks + `]}`, `"toolu_callscripted0001"`},
		{"messages, streamed", "messages", `{"stream":true,` + named + `,"messages":[]}`, "event: message_stop"},
		{"messages, malformed", "messages", `7`, "malformed"},
		{"tokens", "messages/count_tokens", `{}`, `"input_tokens"`},
		{"something else", "embeddings", `{}`, "no such route"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if text := ask(t, NewServer(twoSteps), test.api, test.request); !strings.Contains(text, test.want) {
				t.Errorf("%s lacks %s", text, test.want)
			}
		})
	}
}

func ask(t *testing.T, s *Server, api, request string) string {
	t.Helper()
	server := httptest.NewServer(s)
	defer server.Close()
	response, err := http.Post(server.URL+"/v1/"+api, "application/json", strings.NewReader(request))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestInjectedStepsComeTogether: as many as one message may hold, and none beside an honest one.
func TestInjectedStepsComeTogether(t *testing.T) {
	steps := []Step{{Name: "honest", Tool: "exec"}}
	for range atOnce + 1 {
		steps = append(steps, Step{Name: "attack", Tool: "exec", Injected: true})
	}
	steps = append(steps, Step{Name: "honest", Tool: "exec"})
	for _, dialect := range []struct{ api, request, call string }{
		{"chat/completions", `{%s"tools":[{"function":{"name":"exec"}}],"messages":[%s]}`, `{"role":"tool","tool_call_id":"callscripted%04d","content":""}`},
		{"responses", `{%s"tools":[{"name":"exec"}],"input":[%s]}`, `{"type":"function_call_output","call_id":"callscripted%04d","output":""}`},
		{"messages", `{%s"tools":[{"name":"exec"}],"messages":[{"content":[%s]}]}`, `{"type":"tool_result","tool_use_id":"toolu_callscripted%04d","content":""}`},
	} {
		for _, stream := range []string{"", `"stream":true,`} {
			server := NewServer(&Script{Steps: steps, Answer: "The end."})
			var results []string
			for _, want := range []int{1, atOnce, 1, 1, 0} {
				text := ask(t, server, dialect.api, fmt.Sprintf(dialect.request, stream, strings.Join(results, ",")))
				calls := 0
				for step := len(results); step < len(steps) && strings.Contains(text, callID(step)); step++ {
					calls++
				}
				if calls != want {
					t.Fatalf("%s %s after %d results: %d calls, want %d: %s", dialect.api, stream, len(results), calls, want, text)
				}
				for range calls {
					results = append(results, fmt.Sprintf(dialect.call, len(results)))
				}
			}
			if !server.Done() || len(server.Results()) != len(steps) {
				t.Errorf("%s: done %v after %d results", dialect.api, server.Done(), len(server.Results()))
			}
		}
	}
}

func TestUseTool(t *testing.T) {
	script := &Script{Steps: []Step{{Name: "one", Command: "ls"}, {Name: "two", Tool: "read", Arguments: map[string]any{"path": "x"}}}}
	script.UseTool("bash", "cmd", map[string]any{"why": "because"})
	if got := fmt.Sprint(script.Steps[0].Tool, script.Steps[0].Arguments, script.Steps[1].Tool); got != "bashmap[cmd:ls why:because]read" {
		t.Error(got)
	}
}

func TestLoadRefusesWhatIsNoScript(t *testing.T) {
	for name, text := range map[string]string{
		"unknown key":      `{"stepps":[]}`,
		"no verdict":       `{"steps":[{"name":"x","tool":"y"}]}`,
		"tool and command": `{"steps":[{"name":"x","tool":"y","command":"z","expect":{"verdict":"allow"}}]}`,
		"no tool":          `{"steps":[{"name":"x","expect":{"verdict":"allow"}}]}`,
		"missing value":    `{"task":"{{.Nowhere}}"}`,
		"not even a JSON":  `steps`,
	} {
		path := filepath.Join(t.TempDir(), "script.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, map[string]string{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
