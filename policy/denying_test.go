package policy

import "testing"

// TestDenying: what is denied more is denied by its own name and below, whatever grants it, and nothing beside it is; the policy itself
// stays as it was.
func TestDenying(t *testing.T) {
	p := &Policy{Filesystem: &Filesystem{Read: []string{"/**"}, Write: []string{"/**"}, Deny: []string{"/no"}}}
	narrower := p.Denying([]string{"/etc/raypher", "/odd*name"})
	for path, want := range map[string]Verdict{
		"/etc/raypher": VerdictBlock, "/etc/raypher/policy.yaml": VerdictBlock, "/odd*name": VerdictBlock, "/no": VerdictBlock,
		"/etc/raypher2": VerdictAllow, "/etc": VerdictAllow, "/oddname": VerdictAllow, "/odd-name": VerdictAllow,
	} {
		if got := narrower.FileRules().Decide(path, Write).Verdict; got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if len(p.Filesystem.Deny) != 1 || p.FileRules().Decide("/etc/raypher", Write).Verdict != VerdictAllow {
		t.Errorf("the policy itself was changed: %v", p.Filesystem.Deny)
	}
	if open := (&Policy{}); open.Denying([]string{"/x"}) != open {
		t.Error("a policy that governs no files was changed")
	}
}
