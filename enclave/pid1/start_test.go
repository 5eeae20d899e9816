package pid1

import (
	"os"
	"strings"
	"testing"
)

// TestStart: orders come back, and no other form of them is taken.
func TestStart(t *testing.T) {
	start := Start{HeartbeatCID: NitroParent, Arguments: []string{"--signer", "nitro"}}
	encoded, err := start.Encode()
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/start.json"
	for _, c := range []struct {
		text string
		good bool
	}{
		{string(encoded), true},
		{`{"heartbeat_cid":3,"arguments":["--signer","nitro"]}`, false},
		{"", false},
		{strings.Replace(string(encoded), `"arguments"`, `"Arguments"`, 1), false},
		{string(encoded) + strings.Repeat(" ", 1<<20), false},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadStart(file)
		if (err == nil) != c.good || c.good && (got.HeartbeatCID != start.HeartbeatCID || strings.Join(got.Arguments, " ") != "--signer nitro") {
			t.Errorf("%.80q: %+v, %v", c.text, got, err)
		}
	}
}

func TestIsNotTheFirstProcess(t *testing.T) {
	if Is() {
		t.Error("a test is taken for the first process of an image")
	}
}
