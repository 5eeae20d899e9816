package main

import "testing"

// TestCommands: the command that is called is set up alone, and the help still knows every one.
func TestCommands(t *testing.T) {
	all := commands(nil)
	for i, b := range builders {
		if all[i].Name() != b.name {
			t.Errorf("%s is the command %q", b.name, all[i].Name())
		}
		if one := commands([]string{b.name, "--help"}); len(one) != 1 || one[0].Name() != b.name {
			t.Errorf("%s sets up %d commands", b.name, len(one))
		}
	}
	for _, arguments := range [][]string{{}, {"help", "run"}, {"--help"}, {"unheard-of"}, {"__complete", "run", ""}} {
		if got := commands(arguments); len(got) != len(builders) {
			t.Errorf("%q sets up %d commands", arguments, len(got))
		}
	}
}
