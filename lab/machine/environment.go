package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/raypher/raypher/enclave/image"
)

// FolderVariable names a folder with what machines are made of: `qemu`, `vhost-device-vsock`, `vmlinuz`, and modules/00-NAME.ko and so on, in
// the order in which they need each other, not compressed. scripts/nitro-parts.sh makes one.
const FolderVariable = "RAYPHER_NITRO_LAB"

// Parts are what machines are made of.
type Parts struct {
	QEMU, Vsock string
	Kernel      []byte
	Modules     []image.Module
}

// ReadParts reads the folder of FolderVariable.
func ReadParts(folder string) (*Parts, error) {
	p := &Parts{QEMU: filepath.Join(folder, "qemu"), Vsock: filepath.Join(folder, "vhost-device-vsock")}
	for _, program := range []string{p.QEMU, p.Vsock} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, err
		}
	}
	var err error
	if p.Kernel, err = os.ReadFile(filepath.Join(folder, "vmlinuz")); err != nil {
		return nil, err
	}
	modules, err := filepath.Glob(filepath.Join(folder, "modules", "*.ko")) // sorted
	if err != nil {
		return nil, err
	}
	for _, path := range modules {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		_, name, _ := strings.Cut(filepath.Base(path), "-")
		p.Modules = append(p.Modules, image.Module{Name: name, Content: content})
	}
	return p, nil
}

// TB is what the functions for tests need of a testing.TB.
type TB interface {
	Helper()
	Skip(args ...any)
	Fatal(args ...any)
	Cleanup(func())
}

// FromEnvironment reads the parts for a test, which is skipped where there are none.
func FromEnvironment(t TB) *Parts {
	t.Helper()
	folder := os.Getenv(FolderVariable)
	if folder == "" {
		t.Skip(FolderVariable + " names no folder with a machine's parts: run scripts/nitro-guest.sh")
	}
	p, err := ReadParts(folder)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Folder is a private folder for a test's machine. Those of testing.TB have names too long for sockets.
func Folder(t TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "nitro-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}
