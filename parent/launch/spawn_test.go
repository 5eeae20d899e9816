package launch

import (
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startShell starts a detached shell whose output comes through a pipe.
func startShell(t testing.TB, script string, plain bool) (pid int, output string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	pid, err = command{
		path: "/bin/sh", argv: []string{"sh", "-c", script}, env: []string{"PATH=/usr/bin:/bin", "X=value"},
		files: []int{int(null.Fd()), int(w.Fd()), int(null.Fd())}, plain: plain,
	}.start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return pid, strings.TrimSpace(string(raw))
}

func TestStartDetached(t *testing.T) {
	session, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	pid, output := startShell(t, `echo $$ $X $(pwd) $(ls /proc/self/fd | wc -l)`, false)
	if want := strconv.Itoa(pid) + " value / 4"; output != want { // standard descriptors, and the folder that ls reads
		t.Errorf("it said %q, want %q", output, want)
	}
	_, output = startShell(t, `set -- $(cat /proc/self/stat); echo $6; grep -E 'SigBlk|SigIgn' /proc/self/status | tr -d '\n\t'`, false)
	if got := strings.Fields(output); len(got) != 2 || got[0] == strconv.Itoa(session) || got[1] != "SigBlk:0000000000000000SigIgn:0000000000000000" {
		t.Errorf("session and signals %q; this session is %d", output, session)
	}
	children, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children")
	if err == nil && strings.Contains(" "+string(children), " "+strconv.Itoa(pid)+" ") {
		t.Errorf("the detached process is a child: %s", children)
	}
}

func TestStartWithoutPrivileges(t *testing.T) {
	_, output := startShell(t, `grep -E 'CapPrm|CapEff|CapInh|CapAmb|NoNewPrivs' /proc/self/status | tr -d '\n\t'`, true)
	none := "0000000000000000"
	if want := "CapInh:" + none + "CapPrm:" + none + "CapEff:" + none + "CapAmb:" + none + "NoNewPrivs:1"; output != want {
		t.Errorf("it has %q, want %q", output, want)
	}
}

func TestStartSaysWhatFailed(t *testing.T) {
	_, err := command{path: "/no/such/program", argv: []string{"x"}}.start()
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		startShell(b, "exit", false)
	}
}
