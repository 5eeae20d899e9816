package launch

import (
	"net"
	"os"
	"path/filepath"
	"strings"
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
	} {
		c.before()
		if got := expected(paths, c.err); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestNamedRaypherd: a raypherd that was named and does not answer is an error, to root too, and no private pair takes its place.
func TestNamedRaypherd(t *testing.T) {
	folder := t.TempDir()
	t.Setenv(instance.RunVariable, folder)
	for _, before := range []func(){func() {}, func() { // nothing there; a socket that nobody serves
		l, err := net.Listen("unix", filepath.Join(folder, "raypherd.sock"))
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}} {
		before()
		socket, note, err := findDaemon()
		if err == nil || !strings.Contains(err.Error(), instance.RunVariable) || !strings.Contains(err.Error(), folder) {
			t.Errorf("%q, %q, %v", socket, note, err)
		}
	}
}
