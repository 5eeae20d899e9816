package imports

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// namedTest is how docs/threat-model.md names a test: `folder.TestName`.
var namedTest = regexp.MustCompile("`([a-z0-9/-]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// TestPromisesNameTheirTests: each row of the threat model's tables names at least one test, and every named test exists.
func TestPromisesNameTheirTests(t *testing.T) {
	root := repository(t)
	text, err := os.ReadFile(filepath.Join(root, "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for number, line := range strings.Split(string(text), "\n") {
		named := namedTest.FindAllStringSubmatch(line, -1)
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| promise") {
			if rows++; len(named) == 0 {
				t.Errorf("docs/threat-model.md:%d: a promise without a test: %.80s", number+1, line)
			}
		}
		for _, name := range named {
			if !declares(t, filepath.Join(root, name[1]), name[2]) {
				t.Errorf("docs/threat-model.md:%d: %s has no %s", number+1, name[1], name[2])
			}
		}
	}
	if rows < 10 {
		t.Errorf("only %d promises found", rows)
	}
}

// declares reports whether a test file of the folder declares a test.
func declares(t *testing.T, folder, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "func "+test+"(") {
			return true
		}
	}
	return false
}
