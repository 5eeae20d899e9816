package sandbox_test

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

const probeUID = 64743

// The process keeps its folder, and an attacker inside it gets nothing else. The attempts run in a process of their own,
// which cannot leave the sandbox again.
func TestConfinement(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	dir, err := os.MkdirTemp("", "raypher-sandbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	probe := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-o", probe, "./internal/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	folder := filepath.Join(dir, "state")
	for _, step := range []error{os.Chmod(dir, 0o711), os.Mkdir(folder, 0o700), os.Chown(folder, probeUID, probeUID)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	run := exec.Command(probe, strconv.Itoa(probeUID), folder, strconv.Itoa(listener.Addr().(*net.TCPAddr).Port), probe)
	var stderr bytes.Buffer
	run.Stderr = &stderr
	out, err := run.Output()
	if err != nil {
		t.Fatalf("probe: %v\n%s", err, stderr.Bytes())
	}
	var got struct {
		Attempts map[string]syscall.Errno
		Status   map[string]string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	allowed := map[string]bool{"write in own folder": true, "rename in own folder": true, "the ioctl that is left": true}
	for name, errno := range got.Attempts {
		if refused := errno == syscall.EPERM || errno == syscall.EACCES; refused == allowed[name] || allowed[name] && errno != 0 {
			t.Errorf("%s: %v", name, errno)
		}
	}
	if len(got.Attempts) < 20 {
		t.Errorf("only %d attempts were made", len(got.Attempts))
	}
	uid := strconv.Itoa(probeUID)
	for key, want := range map[string]string{
		"NoNewPrivs": "1", "Seccomp": "2", "Uid": uid + "\t" + uid + "\t" + uid + "\t" + uid, "Gid": uid + "\t" + uid + "\t" + uid + "\t" + uid,
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000",
		"CapAmb": "0000000000000000", "Groups": "",
	} {
		if got.Status[key] != want {
			t.Errorf("/proc/self/status %s: %q, want %q", key, got.Status[key], want)
		}
	}
}
