package tpm_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/internal/initramfs"
)

// kernelVariable names a Linux kernel with TPM drivers for the guest; scripts/vm.sh gets one.
const kernelVariable = "RAYPHER_TEST_KERNEL"

// guestLimit bounds the whole life of the guest; under emulation it needs a tenth of that.
const guestLimit = 3 * time.Minute

// The signer over /dev/tpmrm0: a virtual machine with a TPM, the kernel's driver and its resource manager.
func TestGuest(t *testing.T) {
	kernel := os.Getenv(kernelVariable)
	if kernel == "" {
		t.Skip(kernelVariable + " names no kernel: run scripts/vm.sh")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed: run scripts/vm.sh")
	}
	ca := tpmtest.NewCA(t)
	control := tpmtest.StartForMachine(t, ca.Make(t))
	initramfs := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(initramfs, guestImage(t, ca.Roots), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), guestLimit)
	defer cancel()
	machine := exec.CommandContext(ctx, qemu, "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic", "-no-reboot", "-nodefaults",
		"-serial", "stdio", "-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 panic=-1 quiet",
		"-chardev", "socket,id=tpm,path="+control, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0")
	console, err := machine.CombinedOutput()
	if err != nil || !bytes.Contains(console, []byte("GUEST PASS")) {
		t.Fatalf("%v\n%s", err, console)
	}
	for _, line := range strings.Split(string(console), "\n") {
		if strings.HasPrefix(line, "GUEST") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// guestImage is an initramfs with the guest's program and the roots.
func guestImage(t *testing.T, roots string) []byte {
	t.Helper()
	program := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-o", program, "./internal/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	var image bytes.Buffer
	archive := initramfs.NewWriter(&image)
	for _, dir := range []string{"dev", "proc", "sys", "state", "roots"} {
		archive.Folder(dir)
	}
	archive.File("init", 0o755, ok(os.ReadFile(program))(t))
	for _, entry := range ok(os.ReadDir(roots))(t) {
		archive.File("roots/"+entry.Name(), 0o644, ok(os.ReadFile(filepath.Join(roots, entry.Name())))(t))
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return image.Bytes()
}
