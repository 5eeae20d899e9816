package ceiling

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/raypher/raypher/policy"
)

// TestExample: the example of a ceiling is one, and grants what the example policies ask for, in a dry run too.
func TestExample(t *testing.T) {
	const file = "../../examples/ceiling.yaml"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseSource(file, text)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../examples/policies/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	outer, err := c.Grants[0].Permit.Expand("/home/u")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Parse(file, text)
		if err != nil {
			t.Fatal(err)
		}
		if p, err = p.Expand("/home/u"); err != nil {
			t.Fatal(err)
		}
		if _, err := policy.Narrow(outer, p); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
