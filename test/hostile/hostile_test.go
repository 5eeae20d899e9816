package hostile

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/parent/link"
)

// The enclave, as a process of its own, over a unix socket.
func TestHostileParent(t *testing.T) {
	folder, err := os.MkdirTemp("", "raypher-hostile-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o711); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "raypher-enclave")
	build := exec.Command("go", "build", "-o", program, "github.com/raypher/raypher/cmd/raypher-enclave")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	keys, socket := filepath.Join(folder, "keys"), filepath.Join(folder, "run", "s")
	caller, err := link.Prepare(keys, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	enclave := exec.Command(program, "--dev", "--listen", "unix:"+socket, "--state", filepath.Join(folder, "state"), "--config", keys)
	enclave.Stderr = &said
	if err := enclave.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- enclave.Wait() }()
	t.Cleanup(func() {
		enclave.Process.Kill()
		<-ended
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "panic") || strings.Contains(line, "level=ERROR") || strings.Contains(line, "fatal error") {
				t.Errorf("the enclave said: %.4000s", line)
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	target := Target{
		Dial:   func() (net.Conn, error) { return net.DialTimeout("unix", socket, waiting) },
		Link:   link.Options{Address: "unix:" + socket, Caller: caller, PinFile: filepath.Join(keys, link.PinFile)},
		Caller: caller.Certificate(), Folder: folder, PID: enclave.Process.Pid, Say: t.Logf,
	}
	if err := target.Run(ctx); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		ended <- err
		t.Errorf("the enclave ended: %v", err)
	default:
	}
}
