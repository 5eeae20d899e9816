package launch

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/instance"
)

// Root is told that no raypherd serves a run where one was to be expected, since a private pair knows nothing of its ceiling.
func TestExpectedRaypherd(t *testing.T) {
	t.Setenv(instance.RunVariable, "")
	paths := instance.Paths{Journal: filepath.Join(t.TempDir(), "journal")}
	for _, c := range []struct {
		name   string
		before func()
		err    error
		want   bool
	}{
		{"never one here", func() {}, unix.ENOENT, false},
		{"a socket that nobody serves", func() {}, unix.ECONNREFUSED, true},
		{"one has served before", func() { os.Mkdir(paths.Journal, 0o700) }, unix.ENOENT, true},
		{"one was named", func() { os.Remove(paths.Journal); os.Setenv(instance.RunVariable, "/run/other") }, unix.ENOENT, true},
	} {
		c.before()
		if got := expected(paths, c.err); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
