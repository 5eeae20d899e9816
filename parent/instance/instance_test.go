package instance

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPaths(t *testing.T) {
	private, err := Private("ab12")
	if err != nil {
		t.Fatal(err)
	}
	own, err := At("/tmp/x/run", "/tmp/x/state")
	if err != nil {
		t.Fatal(err)
	}
	system, err := At("", "")
	if err != nil {
		t.Fatal(err)
	}
	if system != Default() {
		t.Errorf("At without folders = %+v, want the system's daemon", system)
	}
	for _, tt := range []struct{ what, got, want string }{
		{"socket", Default().Socket, "/run/raypher/raypherd.sock"},
		{"agent socket", Default().AgentSocket, "/run/raypher/agent.sock"},
		{"enclave socket", Default().EnclaveSocket, "/run/raypher/enclave/enclave.sock"},
		{"journal", Default().Journal, "/var/lib/raypher/journal"},
		{"cgroup", Default().Cgroup, "raypher"},
		{"private socket", private.Socket, "/run/raypher/private/ab12/raypherd.sock"},
		{"private journal", private.Journal, "/var/lib/raypher/runs/ab12/journal"},
		{"private cgroup", private.Cgroup, "raypher-ab12"},
		{"own relay", own.Relay, "/tmp/x/run/raypherd-relay.sock"},
		{"the relay beside a socket", RelayBeside(private.Socket), private.Relay},
		{"own socket", own.Socket, "/tmp/x/run/raypherd.sock"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s = %s, want %s", tt.what, tt.got, tt.want)
		}
	}
	for _, pair := range [][2]Paths{{Default(), private}, {Default(), own}, {private, own}} {
		if pair[0].Cgroup == pair[1].Cgroup || pair[0].Pins == pair[1].Pins {
			t.Errorf("%s and %s share a cgroup or pins", pair[0].Run, pair[1].Run)
		}
	}
	if filepath.Dir(own.Pins) != "/sys/fs/bpf" || strings.Contains(own.Cgroup, "/") {
		t.Errorf("cgroup %q, pins %q", own.Cgroup, own.Pins)
	}
}

func TestBadNames(t *testing.T) {
	for _, id := range []string{"", "abc", "../up", "AB12", "a/b/c", strings.Repeat("a", 33)} {
		if _, err := Private(id); err == nil {
			t.Errorf("Private(%q) was accepted", id)
		}
	}
	if _, err := At("relative", ""); err == nil {
		t.Error("a relative run folder was accepted")
	}
}

// An agent of a private run must not reach the system's daemon or another private run either.
func TestClosed(t *testing.T) {
	private, err := PrivateIn("/tmp/x/run", "/tmp/x/state", "ab12")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Paths{private, Default()} {
		closed := p.Closed()
		for _, path := range []string{
			p.Records, p.Lock, p.EnclaveSocket, p.Journal, p.Keys, p.EnclaveState, p.Spool, p.Pins,
			Default().Keys, Default().Records,
		} {
			if !slices.ContainsFunc(closed, func(c string) bool { return path == c || strings.HasPrefix(path, c+"/") }) {
				t.Errorf("%s of %s is not closed: %q", path, p.Run, closed)
			}
		}
	}
	for _, folder := range []string{"/tmp/x/run", "/tmp/x/state"} { // with those of other private runs
		if !slices.Contains(private.Closed(), folder) {
			t.Errorf("%s is not closed: %q", folder, private.Closed())
		}
	}
}

// TestOperators: who may ask is what the socket's mode and group say, not a name in this program.
func TestOperators(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if got := Operators(socket); got != "" {
		t.Errorf("no socket: %q", got)
	}
	if err := os.WriteFile(socket, nil, 0o660); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives the file to another group")
	}
	for _, c := range []struct {
		gid  int
		mode os.FileMode
		want string
	}{{1, 0o660, "daemon"}, {1, 0o600, ""}, {0, 0o660, ""}, {4000123, 0o660, "4000123"}} {
		if err := errors.Join(os.Chown(socket, 0, c.gid), os.Chmod(socket, c.mode)); err != nil {
			t.Fatal(err)
		}
		if got := Operators(socket); got != c.want {
			t.Errorf("group %d, mode %o: %q, want %q", c.gid, c.mode, got, c.want)
		}
	}
}
