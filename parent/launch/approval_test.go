package launch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/guard/broker"
)

// approvalPolicy asks about one tree in a tree that is granted, and about paths that nothing else names.
const approvalPolicy = `
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/w/**]
  write: [FOLDER/w/**]
  exec: [SELF]
  require_approval: [FOLDER/w/ask/**, FOLDER/other/**]
`

// approvalTable is an action that asks: what is asked, and what it answers when a person said yes.
var approvalTable = []struct {
	name string
	do   action
	asks string
	want string
}{
	{"read", action{"content", "w/ask/file", "text"}, "open-read w/ask/file", "ok"},
	{"write", action{"put", "w/ask/written", "w,trunc", "x"}, "open-write w/ask/written", "ok"},
	{"read and write", action{"open", "w/ask/both", "rw"}, "open-read-write w/ask/both", "ok"},
	{"append", action{"put", "w/ask/appended", "w,append", "x"}, "open-write w/ask/appended", "ok"},
	{"create", action{"put", "w/ask/new", "w,creat,excl", "x"}, "create w/ask/new", "ok"},
	{"list", action{"open", "w/ask/folder", "r,dir"}, "open-read w/ask/folder", "ok"},
	{"what no other list names", action{"content", "other/file", "text"}, "open-read other/file", "ok"},
	{"execute", action{"exec", "FOLDER/other/program", roleProbe, "exit"}, "exec other/program", "ok"},
	{"through a link", action{"content", "w/link", "text"}, "open-read w/ask/linked", "ok"},
	{"unlink", action{"unlink", "w/ask/gone"}, "unlink w/ask/gone", "ok"},
	{"rmdir", action{"rmdir", "w/ask/gonefolder"}, "rmdir w/ask/gonefolder", "ok"},
	{"mkdir", action{"mkdir", "w/ask/made"}, "mkdir w/ask/made", "ok"},
	{"mknod", action{"mknod", "w/ask/pipe", "010644"}, "mknod w/ask/pipe", "ok"},
	{"symlink", action{"symlink", "../file", "w/ask/symlink"}, "symlink w/ask/symlink", "ok"},
	{"rename", action{"rename", "w/ask/old", "w/ask/renamed"}, "rename w/ask/old -> w/ask/renamed", "ok"},
	{"exchange", action{"exchange", "w/ask/one", "w/ask/two"}, "exchange w/ask/one -> w/ask/two", "ok"},
	{"rename into", action{"rename", "w/mine", "w/ask/mine"}, "rename w/mine -> w/ask/mine", "ok"},
	{"link", action{"link", "w/file", "w/ask/hard"}, "link w/file -> w/ask/hard", "ok"},
	{"chmod", action{"chmod", "w/ask/mode", "0600"}, "chmod w/ask/mode -> mode 0600", "ok"},
	{"truncate", action{"truncate", "w/ask/cut", "1"}, "truncate w/ask/cut -> length 1", "ok"},
}

func approvalFiles(a *agent) {
	for _, name := range []string{
		"w/file", "w/mine", "w/ask/file", "w/ask/written", "w/ask/both", "w/ask/appended", "w/ask/linked", "w/ask/gone", "w/ask/old",
		"w/ask/mode", "w/ask/cut", "w/ask/one", "w/ask/two", "other/file",
	} {
		a.write(name, "text")
	}
	program, err := os.ReadFile(a.self)
	a.must(err)
	a.must(os.Chmod(a.write("other/program", string(program)), 0o755))
	a.mkdir("w/ask/folder")
	a.mkdir("w/ask/gonefolder")
	a.must(os.Symlink("ask/linked", filepath.Join(a.folder, "w/link")))
}

// begin starts actions inside, and returns how to wait for their results.
func (a *agent) begin(actions []action) (*exec.Cmd, func() []string) {
	a.t.Helper()
	raw, err := json.Marshal(actions)
	a.must(err)
	cmd := a.command(a.self, roleProbe)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &out, &errs
	a.must(cmd.Start())
	timer := time.AfterFunc(120*time.Second, func() { cmd.Process.Kill() })
	return cmd, func() []string {
		a.t.Helper()
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			a.t.Fatalf("probe: %v\n%s%s", err, out.String(), errs.String())
		}
		a.waitForWarden()
		var results []string
		a.must(json.Unmarshal(out.Bytes(), &results))
		return results
	}
}

// TestApprovals: each call waits, asks about exactly what it would do, and goes on or fails by the answer.
func TestApprovals(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		for _, approved := range []bool{true, false} {
			a := newAgent(t, uid, approvalPolicy)
			approvalFiles(a)
			desk := a.openDesk()
			var actions []action
			for _, c := range approvalTable {
				one := slices.Clone(c.do)
				for i := range one {
					one[i] = a.expand(one[i])
				}
				actions = append(actions, one)
			}
			_, results := a.begin(actions)
			for _, c := range approvalTable {
				q := desk.next()
				if got := q.short(a); got != c.asks {
					t.Errorf("%s asks %q, want %q", c.name, got, c.asks)
				}
				desk.answer(q, approved, 0)
			}
			for i, got := range results() {
				want := approvalTable[i].want
				if !approved {
					want = "EACCES"
				}
				if got != want {
					t.Errorf("%s, approved %v: %s, want %s", approvalTable[i].name, approved, got, want)
				}
			}
			desk.silent()
			checkApproved(t, a, approved)
		}
	})
}

// checkApproved looks at what was done: each thing once, or nothing.
func checkApproved(t *testing.T, a *agent, approved bool) {
	t.Helper()
	for name, want := range map[string]string{"w/ask/appended": "textx", "w/ask/written": "x", "w/ask/renamed": "text", "w/ask/cut": "t"} {
		raw, err := os.ReadFile(filepath.Join(a.folder, name))
		if approved && string(raw) != want {
			t.Errorf("%s holds %q, want %q (%v)", name, raw, want, err)
		}
		if !approved && err == nil && string(raw) != "text" {
			t.Errorf("%s was changed to %q though it was denied", name, raw)
		}
	}
	for _, name := range []string{"w/ask/new", "w/ask/made", "w/ask/hard", "w/ask/mine"} {
		if _, err := os.Lstat(filepath.Join(a.folder, name)); (err == nil) != approved {
			t.Errorf("%s, approved %v: %v", name, approved, err)
		}
	}
	denied := 0
	for _, v := range a.reported() {
		if v.Layer == journal.LayerApproval && v.Decision == journal.Block {
			denied++
		}
	}
	if want := len(approvalTable); approved && denied > 0 || !approved && denied != want {
		t.Errorf("%d verdicts on calls that a person refused, approved %v", denied, approved)
	}
}

// TestApprovalScopes: an answer for the run, or for a time, holds for equal calls and for no other.
func TestApprovalScopes(t *testing.T) {
	needLandlock(t)
	read, write := action{"content", "w/ask/file", "text"}, action{"put", "w/ask/file", "w", "text"}
	for name, tt := range map[string]struct {
		until int64
		do    []action
		asks  []string
	}{
		"once": {0, []action{read, read}, []string{"open-read w/ask/file", "open-read w/ask/file"}},
		"run":  {broker.Always, []action{read, read, write, read}, []string{"open-read w/ask/file", "open-write w/ask/file"}},
		"mode": {broker.Always, []action{{"chmod", "w/ask/file", "0600"}, {"chmod", "w/ask/file", "0600"}, {"chmod", "w/ask/file", "0777"}},
			[]string{"chmod w/ask/file -> mode 0600", "chmod w/ask/file -> mode 0777"}},
		"over": {1, []action{read, read}, []string{"open-read w/ask/file", "open-read w/ask/file"}},
	} {
		a := newAgent(t, os.Getuid(), approvalPolicy)
		approvalFiles(a)
		desk := a.openDesk()
		_, results := a.begin(tt.do)
		for _, want := range tt.asks {
			q := desk.next()
			if got := q.short(a); got != want {
				t.Errorf("%s: asked %q, want %q", name, got, want)
			}
			desk.answer(q, true, tt.until)
		}
		if got := results(); slices.ContainsFunc(got, func(r string) bool { return r != "ok" }) {
			t.Errorf("%s: %v", name, got)
		}
		desk.silent()
	}
}

// TestOnlyWhatCanBeReleasedIsAsked: a person is not asked about what could not be opened after the answer.
func TestOnlyWhatCanBeReleasedIsAsked(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), approvalPolicy)
	approvalFiles(a)
	a.must(unix.Mkfifo(filepath.Join(a.folder, "w/ask/fifo"), 0o600))
	desk := a.openDesk()
	_, results := a.begin([]action{{"open", "w/ask/fifo", "rw"}})
	if got := results(); got[0] != "EACCES" {
		t.Errorf("a named pipe: %s", got)
	}
	desk.silent()
}

// TestApprovalsInAudit: where nothing is refused nothing waits, and it is on record what would have been asked.
func TestApprovalsInAudit(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), strings.Replace(approvalPolicy, "enforce", "audit", 1))
	approvalFiles(a)
	desk := a.openDesk()
	if got := a.probe([]action{{"content", "w/ask/file", "text"}, {"unlink", "w/ask/gone"}}); got[0] != "ok" || got[1] != "ok" {
		t.Error(got)
	}
	desk.silent()
	var seen []string
	for _, v := range a.reported() {
		if v.Decision == journal.WouldAsk {
			seen = append(seen, strings.ReplaceAll(v.Operation+" "+v.Target, a.folder+"/", ""))
		}
	}
	if want := []string{"open-read w/ask/file", "unlink w/ask/gone"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
}

// TestManyApprovals: a hundred calls wait at once, equal ones behind one question, and each happens once.
func TestManyApprovals(t *testing.T) {
	needLandlock(t)
	const questions, each = 50, 2
	a := newAgent(t, os.Getuid(), approvalPolicy)
	for i := range questions {
		a.write(fmt.Sprint("w/ask/log", i), "")
	}
	desk := a.openDesk()
	_, results := a.begin([]action{{"appenders", "w/ask/log", fmt.Sprint(questions), fmt.Sprint(each)}})
	waiting := map[string]asked{}
	for range questions {
		q := desk.next()
		if q.Operation != "open-write" || waiting[q.Target].Target != "" {
			t.Errorf("asked again: %+v", q.Question)
		}
		waiting[q.Target] = q
	}
	for _, q := range waiting {
		desk.answer(q, true, broker.Always)
	}
	if got := results(); got[0] != "ok" {
		t.Fatal(got)
	}
	for target := range waiting {
		raw, err := os.ReadFile(target)
		if err != nil || len(raw) != each {
			t.Errorf("%s holds %q (%v), want %d bytes", target, raw, err, each)
		}
	}
}

// TestKilledWhileWaiting: of an agent that ends while its call waits nothing is left.
func TestKilledWhileWaiting(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), approvalPolicy)
	approvalFiles(a)
	desk := a.openDesk()
	cmd, _ := a.begin([]action{{"unlink", "w/ask/gone"}})
	desk.next()
	cmd.Process.Kill()
	_ = cmd.Wait()
	a.waitForWarden()
	if _, err := os.Stat(filepath.Join(a.folder, "w/ask/gone")); err != nil {
		t.Errorf("it was removed for nobody: %v", err)
	}
}

// TestChildKilledWhileWaiting: the question is withdrawn, nothing happens by a late answer, and the agent goes on.
func TestChildKilledWhileWaiting(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), approvalPolicy)
	approvalFiles(a)
	desk := a.openDesk()
	_, results := a.begin([]action{{"child-killed", "unlink", "w/ask/gone"}, {"content", "w/ask/linked", "text"}})
	q := desk.next()
	a.must(unix.Kill(int(q.PID), unix.SIGKILL))
	later := desk.next() // the agent lives on
	select {
	case id := <-desk.withdrawn:
		if id != q.ID {
			t.Errorf("question %d was withdrawn, not %d", id, q.ID)
		}
	case <-time.After(60 * time.Second):
		t.Error("the question stays")
	}
	desk.answer(q, true, 0)
	desk.answer(later, true, 0)
	if got := results(); got[0] != "ok" || got[1] != "ok" {
		t.Error(got)
	}
	if _, err := os.Stat(filepath.Join(a.folder, "w/ask/gone")); err != nil {
		t.Errorf("it was removed for nobody: %v", err)
	}
}

// TestApprovedOnceUnderSignals: signals that come while the call waits do not make it happen again: a second rename would fail.
func TestApprovedOnceUnderSignals(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), approvalPolicy)
	approvalFiles(a)
	desk := a.openDesk()
	_, results := a.begin([]action{{"alarmed", "rename", "w/ask/old", "w/ask/renamed"}, {"alarmed", "unlink", "w/ask/gone"}})
	for range 2 {
		q := desk.next()
		time.Sleep(50 * time.Millisecond) // under the alarms
		desk.answer(q, true, 0)
	}
	if got := results(); got[0] != "ok" || got[1] != "ok" {
		t.Error(got)
	}
	desk.silent()
}

// TestApprovalIsForWhatWasAsked: another path behind the same pointer, or another object at the same path, is another question.
func TestApprovalIsForWhatWasAsked(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), approvalPolicy)
	approvalFiles(a)
	desk := a.openDesk()
	_, results := a.begin([]action{{"content", "w/link", "text"}})
	q := desk.next()
	if q.short(a) != "open-read w/ask/linked" {
		t.Fatal(q.short(a))
	}
	link := filepath.Join(a.folder, "w/link")
	a.must(os.Remove(link))
	a.must(os.Symlink("ask/file", link))
	desk.answer(q, true, 0)
	if q = desk.next(); q.short(a) != "open-read w/ask/file" {
		t.Errorf("asked %s", q.short(a))
	}
	desk.answer(q, false, 0)
	if got := results(); got[0] != "EACCES" {
		t.Error(got)
	}
}
