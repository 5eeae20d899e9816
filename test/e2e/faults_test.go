package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestEnclaveUnreachable: without an enclave there is no new visa and so no new run; what runs keeps what its visa grants.
func TestEnclaveUnreachable(t *testing.T) {
	m := newMachine(t)
	running := m.reside(ordinary)
	m.pair.KillEnclave()
	got := m.run(ordinary, "/bin/sh", "-c", "echo started > started")
	if got.code != 125 {
		t.Errorf("a new run: status %d, want 125\n%s", got.code, got.stderr)
	}
	if _, err := os.Stat(filepath.Join(m.home.Work, "started")); err == nil {
		t.Error("the program was started without a visa")
	}
	if out := running.do("cat notes.txt"); !strings.HasSuffix(out, "status 0\n") {
		t.Errorf("the running agent lost what its visa grants: %s", out)
	}
	if out := running.do("cat ~/.ssh/id_rsa"); strings.HasSuffix(out, "status 0\n") {
		t.Errorf("the running agent gained: %s", out)
	}
}

// TestParentKilled: the guard stays while raypherd is dead, and a restarted raypherd finds its agents again.
func TestParentKilled(t *testing.T) {
	m := newMachine(t)
	running := m.reside(ordinary)
	held := func(when string) {
		t.Helper()
		for _, attempt := range []string{"cat ~/.ssh/id_rsa", "bash -c 'exec 3<>/dev/tcp/127.0.0.1/9'"} {
			if out := running.do(attempt); strings.HasSuffix(out, "status 0\n") || strings.Contains(out, "Connection refused") {
				t.Errorf("%s, %s was not held: %s", when, attempt, out)
			}
		}
		if out := running.do("cat notes.txt"); !strings.HasSuffix(out, "status 0\n") {
			t.Errorf("%s, honest work fails: %s", when, out)
		}
	}
	held("with raypherd up")
	m.pair.KillParent()
	held("with raypherd dead")
	if got := m.run(ordinary, "/bin/true"); got.code != 125 || !strings.Contains(got.stderr, "RAYPHER_RUN_DIR") {
		t.Errorf("a run without raypherd: status %d, want 125\n%s", got.code, got.stderr)
	}
	if err := m.pair.RestartParent(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, m.pair.Log())
	}
	eventually(t, "raypherd finds its agent again", func() bool {
		return strings.Contains(m.raypher("agents", "list").stdout, "resident")
	})
	held("with raypherd restarted")
	eventually(t, "what is refused now is recorded", func() bool {
		running.do("cat ~/.ssh/id_rsa")
		return strings.Contains(m.raypher("evidence", "list", "--state-dir", m.pair.State).stdout, "id_rsa")
	})
}

// TestWardenKilled: an agent whose warden is gone ends, or stays closed; it is never open.
func TestWardenKilled(t *testing.T) {
	m := newMachine(t)
	running := m.reside(ordinary)
	var wardens []int
	eventually(t, "only this agent's warden runs", func() bool {
		wardens = processes(t, func(argv []string) bool {
			return len(argv) > 1 && strings.HasPrefix(argv[0], programs) && argv[1] == "warden"
		})
		return len(wardens) == 1
	})
	if err := syscall.Kill(wardens[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !running.ends(20 * time.Second) {
		if out := running.do("cat ~/.ssh/id_rsa"); strings.Contains(out, "WORTH-STEALING") {
			t.Errorf("the agent is open: %s", out)
		}
	}
}

// TestAgentLeavesNothing: when an agent's last process ends, its cgroup and its warden go too.
func TestAgentLeavesNothing(t *testing.T) {
	m := newMachine(t)
	got := m.run(ordinary, "/bin/sh", "-c", "sleep 0.3 & exec true")
	if got.code != 0 {
		t.Fatalf("status %d\n%s", got.code, got.stderr)
	}
	eventually(t, "no warden of this test is left", func() bool {
		return len(processes(t, func(argv []string) bool {
			return len(argv) > 1 && strings.HasPrefix(argv[0], programs) && argv[1] == "warden"
		})) == 0
	})
	eventually(t, "no agent is listed", func() bool { return !strings.Contains(m.raypher("agents", "list").stdout, "spiffe://") })
}

// TestMalformedInput: everything that comes from outside is refused with a clear error, without a panic, and opens nothing.
func TestMalformedInput(t *testing.T) {
	m := newMachine(t)
	bad := filepath.Join(m.home.Root, "bad")
	inputs := map[string]string{
		"empty":      "",
		"zero bytes": strings.Repeat("\x00", 64),
		"not CBOR":   "\xff\xff\xff\xff",
		"deep CBOR":  strings.Repeat("\x81", 5000),
		"huge CBOR":  "\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
		"deep YAML":  strings.Repeat("[", 5000),
		"alias bomb": "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n",
		"JSON":       `{"skill_id": 7, "skill_id": 8}`,
	}
	commands := [][]string{
		{"policy", "check", bad},
		{"manifest", "verify", bad},
		{"visa", "show", bad},
		{"visa", "verify", "--allow-software", bad},
		{"evidence", "verify", "--allow-software", bad},
		{"run", "--policy", bad, "--", "/bin/sh", "-c", "echo started > started"},
		{"run", "--policy", m.policy(ordinary), "--manifest", bad, "--", "/bin/sh", "-c", "echo started > started"},
	}
	for name, text := range inputs {
		if err := os.WriteFile(bad, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, command := range commands {
			t.Run(name+"/"+strings.Join(command[:2], " "), func(t *testing.T) {
				m := m.in(t)
				got := m.raypher(command...)
				if got.code == 0 && !(name == "empty" && command[0] == "policy") {
					t.Errorf("accepted: %s", got.stdout)
				}
				if strings.Contains(got.stderr, "goroutine ") || strings.Contains(got.stderr, "panic") {
					t.Errorf("a panic:\n%s", got.stderr)
				}
				if got.code != 0 && strings.TrimSpace(got.stderr+got.stdout) == "" {
					t.Error("refused without a word")
				}
			})
		}
	}
	if _, err := os.Stat(filepath.Join(m.home.Work, "started")); err == nil {
		t.Error("a program was started")
	}
}

// TestAlteredJournal: a byte changed in the stored journal is refused, naming the entry.
func TestAlteredJournal(t *testing.T) {
	m := newMachine(t)
	for range 3 {
		m.run(ordinary, "/bin/cat", m.home.Path(".ssh", "id_rsa"))
	}
	eventually(t, "blocks are recorded", func() bool {
		return strings.Contains(m.raypher("evidence", "list", "--state-dir", m.pair.State).stdout, "id_rsa")
	})
	m.pair.Close()
	var files []string
	err := filepath.WalkDir(filepath.Join(m.pair.State, "journal"), func(path string, entry os.DirEntry, err error) error {
		if info, ierr := entry.Info(); err == nil && ierr == nil && info.Mode().IsRegular() && info.Size() > 400 {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no journal file: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/3] ^= 1
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := m.raypher("evidence", "list", "--state-dir", m.pair.State)
	if got.code == 0 {
		t.Errorf("an altered journal was read without a word:\n%s", got.stdout)
	}
	if !strings.Contains(got.stderr, "entry") {
		t.Errorf("the error does not name the entry: %s", got.stderr)
	}
}

// eventually waits for what the guard does a moment later.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Errorf("never: %s", what)
}

// processes lists the pids of processes whose command line satisfies match.
func processes(t *testing.T, match func(argv []string) bool) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && match(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// have skips the test when the system does not have a program. What a version manager put into this user's home does not
// count: governed agents do not see it.
func have(t *testing.T, program string) {
	t.Helper()
	for _, folder := range filepath.SplitList(systemPath) {
		if _, err := exec.LookPath(filepath.Join(folder, program)); err == nil {
			return
		}
	}
	t.Skipf("the system has no %s: scripts/deps.sh", program)
}
