package attach

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/raypher/raypher/policy"
)

func read(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCheck: what only a launch can give is refused, all of it at once.
func TestCheck(t *testing.T) {
	for text, want := range map[string][]string{
		"network: {egress: [example.com]}\n":                                nil,
		"filesystem: {read: [/usr/**], deny: [/usr/lib/**]}\n":              nil,
		"mode: audit\non_violation: kill\n":                                 nil,
		"filesystem: {require_approval: [/etc/x]}\n":                        {"filesystem.require_approval"},
		"network: {require_approval: [example.com]}\n":                      {"network.require_approval"},
		"network: {isolate: true}\n":                                        {"network.isolate"},
		"syscalls: {kill: deny}\nresources: {max_memory_mb: 5}\n":           {"syscalls", "resources", "MemoryMax="},
		"syscalls: {kill: log}\nfilesystem: {require_approval: [/etc/x]}\n": {"syscalls", "filesystem.require_approval"},
	} {
		err := Check(read(t, text))
		if (err == nil) != (want == nil) || err != nil && !errors.Is(err, ErrNeedsLaunch) {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v lacks %s", text, err, w)
			}
		}
	}
}

// TestNetworkOnly: the visa of a network alone claims nothing about files.
func TestNetworkOnly(t *testing.T) {
	p := read(t, "filesystem: {read: [/usr/**]}\nnetwork: {egress: [example.com]}\n")
	only := NetworkOnly(p)
	if only.Filesystem != nil || len(only.Network.Egress) != 1 || p.Filesystem == nil {
		t.Errorf("%+v of %+v", only, p)
	}
}

// TestUncovered: what a process has is found and said, and what it does not have is not.
func TestUncovered(t *testing.T) {
	file, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for _, tt := range []struct {
		name      string
		place     Place
		says, not []string
	}{
		{"under lsm", Place{Files: true, Threads: 2, Children: 3},
			[]string{"descriptors of files", "mappings of files for execution", "no seccomp filter", "no Landlock floor", "may gain rights", "2 threads", "3 children"},
			[]string{"only the network", "its user owns", "network namespace", "network.unix", "sockets that are open", "could not be"}},
		{"under lsm, given to a user", Place{Files: true, OwnsAbove: true}, []string{"programs of that user outside of it can move processes out"}, nil},
		{"the network alone", Place{OwnsAbove: true, Network: &policy.Network{Unix: []string{"/run/x"}}},
			[]string{"only the network is held", "its user owns the cgroup above", "network.unix"}, []string{"threads", "children"}},
	} {
		tt.place.PIDs = []int{cmd.Process.Pid}
		said := strings.Join(tt.place.Uncovered(), "\n")
		for _, want := range tt.says {
			if !strings.Contains(said, want) {
				t.Errorf("%s: it says\n%s\nwhich lacks %q", tt.name, said, want)
			}
		}
		for _, not := range tt.not {
			if strings.Contains(said, not) {
				t.Errorf("%s: it says\n%s\nwhich has %q", tt.name, said, not)
			}
		}
	}
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join((Place{PIDs: []int{gone.Process.Pid}}).Uncovered(), "\n"); !strings.Contains(said, "1 processes ended") {
		t.Errorf("of one that has ended it says\n%s", said)
	}
}
