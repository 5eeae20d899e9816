package scripted

import (
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
	for _, test := range []struct{ name, request, want string }{
		{"no tools", `{"messages":[]}`, `"content":"scripted"`},
		{"start", `{` + tools + `,"messages":[{"role":"user","content":"go"}]}`, `"callscripted0000"`},
		{"after the first", `{` + tools + `,"messages":[` + first + `]}`, `"callscripted0001"`},
		{"the same again", `{` + tools + `,"messages":[` + first + `]}`, `"callscripted0001"`},
		{"a call of somebody else", `{` + tools + `,"messages":[{"role":"tool","tool_call_id":"x","content":""}]}`, `"callscripted0000"`},
		{"parts and a rewritten id", `{` + tools + `,"messages":[` + first + `,` + rewritten + `]}`, `"content":"The end."`},
		{"streamed", `{"stream":true,` + tools + `,"messages":[]}`, "data: [DONE]"},
		{"malformed", `{`, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(NewServer(twoSteps))
			defer server.Close()
			response, err := http.Post(server.URL+"/v1/chat/completions", "application/json", strings.NewReader(test.request))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			if err != nil || !strings.Contains(string(text), test.want) {
				t.Errorf("%s lacks %s (%v)", text, test.want, err)
			}
		})
	}
}

func TestLoadRefusesWhatIsNoScript(t *testing.T) {
	for name, text := range map[string]string{
		"unknown key":     `{"stepps":[]}`,
		"no verdict":      `{"steps":[{"name":"x","tool":"y"}]}`,
		"no tool":         `{"steps":[{"name":"x","expect":{"verdict":"allow"}}]}`,
		"missing value":   `{"task":"{{.Nowhere}}"}`,
		"not even a JSON": `steps`,
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
