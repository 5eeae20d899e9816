package imports

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// namedTest is how the documentation names a test: `folder.TestName`.
var namedTest = regexp.MustCompile("`([a-z0-9/-]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// TestPromisesNameTheirTests: each row of the tables of what is held, in the threat model and the page of bypasses, names at least one
// test, and every named test exists.
func TestPromisesNameTheirTests(t *testing.T) {
	root := repository(t)
	for page, held := range map[string]string{"threat-model.md": "| promise", "bypasses.md": "| class"} {
		rows := promisesOf(t, root, page, held)
		if rows < 10 {
			t.Errorf("docs/%s: only %d promises found", page, rows)
		}
	}
}

// promisesOf looks at one page of documentation, whose tables of what is held begin with a header, and counts their rows. Rows of
// other tables need no test.
func promisesOf(t *testing.T, root, page, header string) (rows int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	held := false
	for number, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "|") {
			held = false
		}
		named := namedTest.FindAllStringSubmatch(line, -1)
		if held && strings.HasPrefix(line, "| ") {
			if rows++; len(named) == 0 {
				t.Errorf("docs/%s:%d: a promise without a test: %.80s", page, number+1, line)
			}
		}
		held = held || strings.HasPrefix(line, header+" ")
		for _, name := range named {
			if !declares(t, filepath.Join(root, name[1]), name[2]) {
				t.Errorf("docs/%s:%d: %s has no %s", page, number+1, name[1], name[2])
			}
		}
	}
	return rows
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
