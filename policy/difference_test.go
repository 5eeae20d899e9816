package policy

import (
	"strings"
	"testing"
)

// TestDifference: what one policy grants and another does not, both ways.
func TestDifference(t *testing.T) {
	for _, tt := range []struct {
		name, a, b string
		ab, ba     string // the items, by section
	}{
		{"the same", "filesystem: {read: [/a/**]}", "filesystem: {read: ['/{a,a}/**']}", "", ""},
		{"one rule more", "filesystem: {read: [/a/**, /b]}", "filesystem: {read: [/a/**]}", "filesystem.read /b", ""},
		{"a wider rule", "filesystem: {read: [/a/**]}", "filesystem: {read: [/a/*]}", "filesystem.read /a/**", ""},
		{"another access", "filesystem: {write: [/a]}", "filesystem: {read: [/a]}", "filesystem.write /a", "filesystem.read /a"},
		{"one access more", "filesystem: {read: [/a], write: [/a]}", "filesystem: {read: [/a]}", "filesystem.write /a", ""},
		{"executing is reading", "filesystem: {read: [/a]}", "filesystem: {exec: [/a]}", "", "filesystem.exec /a"},
		{"what the other denies", "filesystem: {read: [/a/**]}", "filesystem: {read: [/a/**], deny: [/a/k]}", "filesystem.read /a/**", ""},
		{"what the other asks about", "filesystem: {read: [/a/**]}", "filesystem: {read: [/a/**], require_approval: [/a/k]}", "filesystem.read /a/**", ""},
		{"what only asks", "filesystem: {require_approval: [/a]}", "filesystem: {}", "filesystem.require_approval /a", ""},
		{"not governed", "network: {}", "filesystem: {}", "filesystem (no section)", ""},
		{"no network is a closed one", "filesystem: {}", "filesystem: {}\nnetwork: {egress: ['a.example:443'], listen: ['80'], unix: [/x]}", "", "network.egress a.example:443; network.listen 80; network.unix /x"},
		{"who comes in", "filesystem: {}\nnetwork: {ingress: [80]}", "filesystem: {}\nnetwork: {ingress: ['10.0.0.0/8:80']}", "network.ingress 80", ""},
		{"system calls", "filesystem: {}\nsyscalls: {ptrace: log, shmget: allow}", "filesystem: {}\nsyscalls: {ptrace: deny}", "syscalls ptrace; syscalls shmget", ""},
		{"a call that the other denies", "filesystem: {}", "filesystem: {}\nsyscalls: {kill: deny}", "syscalls kill", ""},
		{"limits", "filesystem: {}\nresources: {max_fds: 10}", "filesystem: {}\nresources: {max_fds: 5, max_processes: 1}", "resources.max_fds 10; resources.max_processes (no limit)", ""},
		{"modes", "mode: audit\nfilesystem: {}", "on_violation: kill\nfilesystem: {}", "mode audit; on_violation block", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var both [2]*Policy
			for i, text := range []string{tt.a, tt.b} {
				p, err := Parse("p", []byte(text))
				if err == nil {
					p, err = p.Expand("/home/u")
				}
				if err != nil {
					t.Fatal(err)
				}
				both[i] = p
			}
			for i, want := range []string{tt.ab, tt.ba} {
				var items []string
				for _, b := range Difference(both[i], both[1-i]) {
					items = append(items, b.Section+" "+b.Item)
				}
				if got := strings.Join(items, "; "); got != want {
					t.Errorf("direction %d: %q, want %q", i, got, want)
				}
			}
		})
	}
}
