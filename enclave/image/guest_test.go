package image_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/enclave/image"
	"github.com/raypher/raypher/enclave/pid1"
)

// kernelVariable names a Linux kernel, FOLDER/boot/vmlinuz-VERSION, with its modules in FOLDER/lib/modules; scripts/enclave-guest.sh
// gets one.
const kernelVariable = "RAYPHER_TEST_KERNEL"

// guestLimit bounds the whole life of a guest; under emulation it needs a tenth of that.
const guestLimit = 2 * time.Minute

// loopback is what sends vsock packets of a machine to itself, in the order in which the modules need each other.
var loopback = []string{"vsock.ko", "vmw_vsock_virtio_transport_common.ko", "vsock_loopback.ko"}

// The first process on a real kernel: mounts, modules, the loopback device, the heartbeat over real vsock.
func TestGuest(t *testing.T) {
	kernel := testKernel(t)
	console := boot(t, kernel, build(t, "./internal/guest"), pid1.Start{HeartbeatCID: 1, Arguments: []string{"none"}}, modules(t, kernel, loopback...))
	for _, line := range strings.Split(console, "\n") {
		if strings.HasPrefix(line, "GUEST") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if !strings.Contains(console, "GUEST PASS") {
		t.Errorf("console:\n%s", console)
	}
}

// The whole image with the real program: without the device of a Nitro enclave it serves nothing, says why, and ends.
func TestImageBoots(t *testing.T) {
	kernel := testKernel(t)
	program := build(t, "../../cmd/raypher-enclave")
	nitro := []string{"--signer", "nitro", "--listen", "vsock:5000"}
	for _, c := range []struct {
		name  string
		start pid1.Start
		want  []string
	}{
		{
			"tier nitro without its device", pid1.Start{HeartbeatCID: pid1.NoHeartbeat, Arguments: nitro},
			[]string{"raypher-enclave: ", "nitro", "raypher-enclave: init: the service: exit status 1: this enclave ends"},
		},
		{
			"a host that takes no heartbeat", pid1.Start{HeartbeatCID: pid1.NitroParent, Arguments: nitro},
			[]string{"raypher-enclave: init: heartbeat to vsock context 3, port 9000: ", "this enclave ends"},
		},
		{
			"a program that ends well", pid1.Start{HeartbeatCID: pid1.NoHeartbeat, Arguments: []string{"--version"}},
			[]string{"raypher-enclave devel", "raypher-enclave: init: the service ended: this enclave ends"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			console := boot(t, kernel, program, c.start, modules(t, kernel, loopback...))
			for _, want := range c.want {
				if !strings.Contains(console, want) {
					t.Errorf("the console does not say %q:\n%s", want, console)
				}
			}
			if strings.Contains(console, "enclave ready") || strings.Contains(console, "Kernel panic") {
				t.Errorf("console:\n%s", console)
			}
		})
	}
}

func testKernel(t *testing.T) string {
	t.Helper()
	kernel := os.Getenv(kernelVariable)
	if kernel == "" {
		t.Skip(kernelVariable + " names no kernel: run scripts/enclave-guest.sh")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed: run scripts/enclave-guest.sh")
	}
	return kernel
}

// modules reads modules of the kernel's package.
func modules(t *testing.T, kernel string, names ...string) []image.Module {
	t.Helper()
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	folder := filepath.Join(filepath.Dir(kernel), "..", "lib", "modules", version, "kernel", "net", "vmw_vsock")
	var all []image.Module
	for _, name := range names {
		all = append(all, image.Module{Name: name, Content: ok(os.ReadFile(filepath.Join(folder, name)))(t)})
	}
	return all
}

// build compiles a package of this module into a static program.
func build(t *testing.T, pkg string) []byte {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	command := exec.Command("go", "build", "-trimpath", "-o", program, pkg)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return ok(os.ReadFile(program))(t)
}

// boot builds an image, takes it apart again, boots its parts as a loader does, and returns what the console said.
func boot(t *testing.T, kernel string, program []byte, start pid1.Start, modules []image.Module) string {
	t.Helper()
	raw := ok(eif.Build(eif.Contents{
		Kernel: ok(os.ReadFile(kernel))(t), CommandLine: "console=ttyS0 reboot=k panic=-1 quiet",
		Ramdisks: [][]byte{ok(image.Boot(modules))(t), ok(image.Application(program, start))(t)},
	}))(t)
	parts := ok(eif.Parse(raw))(t)
	folder := t.TempDir()
	file := func(name string, content []byte) string {
		name = filepath.Join(folder, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	ctx, cancel := context.WithTimeout(t.Context(), guestLimit)
	defer cancel()
	machine := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic", "-no-reboot",
		"-nodefaults", "-serial", "stdio", "-kernel", file("kernel", parts.Kernel()), "-initrd", file("ramdisks", bytes.Join(parts.Ramdisks(), nil)),
		"-append", parts.CommandLine())
	console, err := machine.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, console)
	}
	return string(console)
}
