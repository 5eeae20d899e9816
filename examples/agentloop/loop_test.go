package agentloop

import (
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/examples/scripted"
)

// TestAgentObeysItsModel: the agent carries out each step of a script for real, and the model hears what came of it.
func TestAgentObeysItsModel(t *testing.T) {
	note := filepath.Join(t.TempDir(), "note.txt")
	script := &scripted.Script{Answer: "Done.", Steps: []scripted.Step{
		{Name: "write", Tool: "write_file", Arguments: map[string]any{"path": note, "content": "hello"}},
		{Name: "read", Tool: "read_file", Arguments: map[string]any{"path": note}},
		{Name: "run", Tool: "run", Arguments: map[string]any{"command": []string{"/bin/sh", "-c", "echo $((6*7)); exit 3"}}},
		{Name: "unknown", Tool: "no_such_tool"},
	}}
	model := scripted.NewServer(script)
	server := httptest.NewServer(model)
	defer server.Close()
	agent := Agent{BaseURL: server.URL + "/v1", Log: io.Discard}
	answer, err := agent.Do(t.Context(), "work")
	if err != nil || answer != "Done." || !model.Done() {
		t.Fatalf("answer %q, done %v, %v", answer, model.Done(), err)
	}
	if text, err := os.ReadFile(note); err != nil || string(text) != "hello" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	want := []string{`"ok":true`, `"output":"hello"`, `"output":"42\n","error":"exit status 3"`, "no such tool"}
	results := model.Results()
	if len(results) != len(want) {
		t.Fatalf("%d results, want %d", len(results), len(want))
	}
	for i, text := range want {
		if !strings.Contains(results[i], text) {
			t.Errorf("step %d: result %s, want %s", i+1, results[i], text)
		}
	}
}
