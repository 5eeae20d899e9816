package namespaces

import (
	"os"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	f, err := Parse("namespaces.yaml", []byte(`namespaces:
  dev: &dev {max_agents: 4, max_memory_mb: 8192, max_processes: 512, max_fds: 100000}
  test:
    <<: *dev
    max_agents: 1
  "*": {max_agents: 0}
`))
	if err != nil {
		t.Fatal(err)
	}
	if l := f.Of("dev"); *l.Agents != 4 || *l.MemoryMB != 8192 || *l.Processes != 512 || *l.FDs != 100000 {
		t.Errorf("dev: %+v", l)
	}
	if l := f.Of("test"); *l.Agents != 1 || *l.MemoryMB != 8192 {
		t.Errorf("test: %+v", l)
	}
	if l := f.Of("other"); *l.Agents != 0 || l.MemoryMB != nil {
		t.Errorf("other: %+v", l)
	}
	if names := f.Names(); strings.Join(names, " ") != "dev test" {
		t.Errorf("names %q", names)
	}
	if l := (*File)(nil).Of("dev"); l != (Limits{}) {
		t.Errorf("without a file: %+v", l)
	}
}

func TestProblems(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"empty":           {"", []string{"n:1:1: empty list of namespaces"}},
		"no namespaces":   {"{}", []string{"namespaces: missing"}},
		"unknown keys":    {"namespaces:\n  dev: {max_agent: 3}\nnamespace: {}\n", []string{"n:2:9: unknown key \"max_agent\": did you mean max_agents?", "n:3:1: unknown key \"namespace\""}},
		"twice":           {"namespaces:\n  dev: {}\n  dev: {}\n", []string{"n:3:3: key \"dev\" stands twice"}},
		"bad name":        {"namespaces: {Dev_1: {max_agents: 1}}", []string{"n:1:14: \"Dev_1\" is no namespace"}},
		"empty name":      {"namespaces: {\"\": {}}", []string{"is no namespace"}},
		"nothing":         {"namespaces: {dev: {max_memory_mb: 0, max_processes: 0, max_fds: 0}}", []string{"0 is not between 1 and"}},
		"no number":       {"namespaces: {dev: {max_memory_mb: 8G}}", []string{"n:1:35: text \"8G\" where a number is wanted"}},
		"negative":        {"namespaces: {dev: {max_agents: -1}}", []string{"n:1:32: number -1"}},
		"too many":        {"namespaces: {dev: {max_agents: 18446744073709551615}}", []string{"is not between 0 and"}},
		"unquoted others": {"namespaces:\n  *: {max_agents: 1}\n", []string{"n:2:"}},
		"a list":          {"namespaces: [dev]", []string{"n:1:13: a list where keys are wanted"}},
		"too large":       {strings.Repeat("#", MaxSource+1), []string{"at most 1048576"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("n", []byte(tt.text))
			if err == nil {
				t.Fatal("no problem")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestNotes(t *testing.T) {
	f := file(t, "namespaces: {dev: {max_memory_mb: 1, max_fds: 1}}")
	for _, tt := range []struct {
		memory, processes bool
		want              []string
	}{
		{true, true, nil},
		{false, true, []string{"max_memory_mb of namespaces"}},
		{true, false, []string{"max_fds of namespaces"}},
		{false, false, []string{"max_memory_mb of namespaces", "max_fds of namespaces"}},
	} {
		notes := f.Notes(tt.memory, tt.processes)
		if len(notes) != len(tt.want) {
			t.Errorf("%+v: %q", tt, notes)
			continue
		}
		for i, want := range tt.want {
			if !strings.HasPrefix(notes[i], want) {
				t.Errorf("%q, want %q", notes[i], want)
			}
		}
	}
	if notes := (*File)(nil).Notes(false, false); notes != nil {
		t.Errorf("without a file: %q", notes)
	}
}

// FuzzParse: whatever the file is, there is an error or limits within their bounds.
func FuzzParse(f *testing.F) {
	f.Add([]byte("namespaces: {dev: {max_agents: 1, max_memory_mb: 2}, \"*\": {max_fds: 3}}"))
	f.Add([]byte("namespaces:\n  a: &a {max_agents: 1}\n  b: {<<: *a}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := Parse("f", text)
		if err != nil {
			return
		}
		for _, name := range append(parsed.Names(), Others) {
			for _, limit := range []*uint64{parsed.Of(name).MemoryMB, parsed.Of(name).Processes, parsed.Of(name).FDs} {
				if limit != nil && (*limit == 0 || *limit > mostFDs) {
					t.Errorf("%s: %d", name, *limit)
				}
			}
		}
	})
}

func file(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("namespaces.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestExample: the example of a file is one.
func TestExample(t *testing.T) {
	const name = "../../examples/namespaces.yaml"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(name, text)
	if err != nil {
		t.Fatal(err)
	}
	if l := f.Of("dev"); l.Agents == nil || l.MemoryMB == nil || l.Processes == nil || l.FDs == nil || f.Of("another").Agents == nil {
		t.Errorf("it shows not everything: %+v", l)
	}
}
