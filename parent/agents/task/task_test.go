package task

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sleeper starts a process that ends when the test says so.
func sleeper(t *testing.T, script string) (*Task, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	one, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { one.Close() })
	return one, cmd
}

func TestGone(t *testing.T) {
	one, cmd := sleeper(t, "sleep 1000")
	if !one.Alive() {
		t.Error("not alive")
	}
	select {
	case <-one.Gone():
		t.Error("gone at once")
	default:
	}
	cmd.Process.Kill()
	<-one.Gone() // a zombie counts as gone
	if one.Alive() {
		t.Error("alive after its end")
	}
	if _, err := one.Identity(); !errors.Is(err, ErrGone) {
		t.Errorf("identity of a zombie: %v", err)
	}
	cmd.Wait()
	if _, err := Open(cmd.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("opening an ended process: %v", err)
	}
}

func TestCloseEndsTheWatch(t *testing.T) {
	one, _ := sleeper(t, "sleep 1000")
	gone := one.Gone()
	one.Close()
	<-gone
}

func TestIdentity(t *testing.T) {
	one, _ := sleeper(t, "sleep 1000")
	id, err := one.Identity()
	if err != nil || id.UID != uint32(os.Getuid()) || id.Started == 0 {
		t.Errorf("identity %+v, %v", id, err)
	}
	if _, err := started("1 (a) b) S 1"); err == nil {
		t.Error("a short stat was read")
	}
	var other Identity
	if err := other.readStatus("Name: x\nUid:\t1000\t0\t0\t0\n"); err == nil {
		t.Error("a process with different uids has one identity")
	}
	if err := other.readStatus("Name: x\n"); err == nil {
		t.Error("a status without a user was read")
	}
}

func TestPeer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	raw, _ := accepted.(*net.UnixConn).SyscallConn()
	raw.Control(func(fd uintptr) {
		peer, cred, err := Peer(int(fd))
		if err != nil {
			t.Error(err)
			return
		}
		defer peer.Close()
		if peer.PID() != os.Getpid() || cred.Uid != uint32(os.Getuid()) || !peer.Alive() {
			t.Errorf("peer %d, %+v", peer.PID(), cred)
		}
	})
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("mkfifo %[1]s/fifo; exec 3<%[1]s/f 4<>%[1]s/fifo 5<%[1]s; echo ready; sleep 1000", dir))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	bufio.NewReader(out).ReadString('\n')
	one, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	f, err := one.OpenFile(3)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for fd, want := range map[int]string{4: "no regular file", 5: "no regular file", 999: "no such file"} {
		if _, err := one.OpenFile(fd); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("descriptor %d: %v, want %q", fd, err, want)
		}
	}
}

func TestLimitFiles(t *testing.T) {
	one, cmd := sleeper(t, "sleep 1000")
	if err := one.LimitFiles(17); err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if strings.HasPrefix(line, "Max open files") && len(strings.Fields(line)) >= 5 {
			if f := strings.Fields(line); f[3] != "17" || f[4] != "17" {
				t.Errorf("limits %s", line)
			}
		}
	}
}
