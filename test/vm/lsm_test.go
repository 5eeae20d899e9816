package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/internal/initramfs"
)

// Kernels that call programs of BPF LSM, and that take them and call none: what their list of LSMs says.
const (
	lsmLine      = "lsm=landlock,lockdown,yama,integrity,apparmor,bpf"
	uncalledLine = "lsm=landlock,lockdown,yama,integrity,apparmor raypher.uncalled"
)

// TestFileGuard: under each kernel the file guard of BPF LSM refuses each attempt of a table (lsmguest/table.go) by the hook that is
// named there, for root and for a user, and lets the honest sibling pass; approvals, reloads, deadlines, modes and counts hold; it
// stays in force without raypherd.
func TestFileGuard(t *testing.T) {
	kernels := os.Getenv(heldKernelsVariable)
	if kernels == "" {
		t.Skip(heldKernelsVariable + " names no kernels: run scripts/vm.sh")
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(image, lsmImage(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kernel := range strings.Split(kernels, ":") {
		kind := kindOf(kernel)
		t.Run(strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-"), func(t *testing.T) {
			qemu, err := exec.LookPath(kind.qemu)
			if err != nil {
				t.Fatalf("%v: run scripts/vm.sh", err)
			}
			boot(t, append([]string{qemu}, kind.arguments...), kind.console+" "+lsmLine, kernel, image)
		})
	}
}

// TestUncalledPrograms: where a kernel takes programs of BPF LSM and calls none, because its list of LSMs leaves bpf out, the
// file guard refuses to load.
func TestUncalledPrograms(t *testing.T) {
	kernels := os.Getenv(heldKernelsVariable)
	if kernels == "" {
		t.Skip(heldKernelsVariable + " names no kernels: run scripts/vm.sh")
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(image, lsmImage(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kernel := range strings.Split(kernels, ":") {
		kind := kindOf(kernel)
		t.Run(strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-"), func(t *testing.T) {
			qemu, err := exec.LookPath(kind.qemu)
			if err != nil {
				t.Fatalf("%v: run scripts/vm.sh", err)
			}
			boot(t, append([]string{qemu}, kind.arguments...), kind.console+" "+uncalledLine, kernel, image)
		})
	}
}

// lsmImage is an initramfs with the guest's program alone.
func lsmImage(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./lsmguest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build ./lsmguest: %v\n%s", err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	w := initramfs.NewWriter(&image)
	for _, name := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		w.Folder(name)
	}
	for _, name := range []string{"init", "bin/guest"} {
		w.File(name, 0o755, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return image.Bytes()
}
