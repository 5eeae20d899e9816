package image_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
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

// kernelVariable names a Linux kernel, FOLDER/boot/vmlinuz-VERSION, with its modules in FOLDER/lib/modules; scripts/vm.sh
// gets one.
const kernelVariable = "RAYPHER_TEST_KERNEL"

// guestLimit bounds the whole life of a guest; under emulation it needs a tenth of that.
const guestLimit = 2 * time.Minute

// Modules below the kernel's folder, in the order in which they need each other.
var (
	// loopback sends vsock packets of a machine to itself.
	loopback = []string{"net/vmw_vsock/vsock.ko", "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko", "net/vmw_vsock/vsock_loopback.ko"}
	// virtio sends them to the host, through a device on the PCI bus.
	virtio = []string{
		"drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko", "drivers/virtio/virtio_pci_legacy_dev.ko",
		"drivers/virtio/virtio_pci_modern_dev.ko", "drivers/virtio/virtio_pci.ko",
		"net/vmw_vsock/vsock.ko", "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko", "net/vmw_vsock/vmw_vsock_virtio_transport.ko",
	}
)

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
		name    string
		start   pid1.Start
		modules []string
		want    []string
	}{
		{
			"tier nitro without its device", pid1.Start{HeartbeatCID: pid1.NoHeartbeat, Arguments: nitro}, loopback,
			[]string{"raypher-enclave: ", "nitro", "raypher-enclave: init: the service: exit status 1: this enclave ends"},
		},
		{
			"a host that takes no heartbeat", pid1.Start{HeartbeatCID: pid1.NitroParent, Arguments: nitro}, loopback,
			[]string{"raypher-enclave: init: heartbeat to vsock context 3, port 9000: ", "this enclave ends"},
		},
		{
			"a program that ends well", pid1.Start{HeartbeatCID: pid1.NoHeartbeat, Arguments: []string{"--version"}}, loopback,
			[]string{"raypher-enclave devel", "raypher-enclave: init: the service ended: this enclave ends"},
		},
		{
			"modules in the wrong order", pid1.Start{HeartbeatCID: pid1.NoHeartbeat, Arguments: nitro}, []string{loopback[2], loopback[0]},
			[]string{"raypher-enclave: init: load /modules/00-vsock_loopback.ko: unknown symbol", "this enclave ends"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			console := boot(t, kernel, program, c.start, modules(t, kernel, c.modules...))
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

// The heartbeat of an image reaches the host through a vsock device, before the service starts.
func TestHeartbeatReachesTheHost(t *testing.T) {
	kernel := testKernel(t)
	device, err := exec.LookPath("vhost-device-vsock")
	if err != nil {
		t.Skip("vhost-device-vsock is not in PATH: it is in Debian's sid and runs on older ones after dpkg-deb -x")
	}
	folder := t.TempDir()
	control, host := filepath.Join(folder, "control"), filepath.Join(folder, "host")
	backend := exec.Command(device, "--guest-cid", "16", "--socket", control, "--uds-path", host)
	if err := backend.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		backend.Process.Kill()
		backend.Wait()
	})
	for range 200 { // it listens once the socket is there
		if _, err := os.Stat(control); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	// What a guest sends to context 2 arrives at the socket of its port.
	l := ok(net.Listen("unix", fmt.Sprintf("%s_%d", host, pid1.HeartbeatPort)))(t)
	t.Cleanup(func() { l.Close() })
	received := make(chan byte, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		beat := make([]byte, 1)
		if _, err := io.ReadFull(conn, beat); err == nil {
			received <- beat[0]
			conn.Write(beat)
		}
	}()
	start := pid1.Start{HeartbeatCID: 2, Arguments: []string{"--version"}}
	console := boot(t, kernel, build(t, "../../cmd/raypher-enclave"), start, modules(t, kernel, virtio...),
		"-chardev", "socket,id=vsock,path="+control, "-device", "vhost-user-vsock-pci,chardev=vsock")
	select {
	case beat := <-received:
		if beat != 0xb7 || !strings.Contains(console, "init: the service ended") {
			t.Errorf("the host received %#02x, and the console:\n%s", beat, console)
		}
	default:
		t.Errorf("no heartbeat; console:\n%s", console)
	}
}

func testKernel(t *testing.T) string {
	t.Helper()
	kernel := os.Getenv(kernelVariable)
	if kernel == "" {
		t.Skip(kernelVariable + " names no kernel: run scripts/vm.sh")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed: run scripts/vm.sh")
	}
	return kernel
}

// modules reads modules of the kernel's package.
func modules(t *testing.T, kernel string, names ...string) []image.Module {
	t.Helper()
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	folder := filepath.Join(filepath.Dir(kernel), "..", "lib", "modules", version, "kernel")
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
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return ok(os.ReadFile(program))(t)
}

// boot builds an image, takes it apart again, boots its parts as a loader does, and returns what the console said.
func boot(t *testing.T, kernel string, program []byte, start pid1.Start, modules []image.Module, devices ...string) string {
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
	machine := exec.CommandContext(ctx, "qemu-system-x86_64", append([]string{"-M", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", "max", "-m", "512",
		"-object", "memory-backend-memfd,id=ram,size=512M,share=on", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", file("kernel", parts.Kernel()), "-initrd", file("ramdisks", bytes.Join(parts.Ramdisks(), nil)),
		"-append", parts.CommandLine()}, devices...)...)
	console, err := machine.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, console)
	}
	return string(console)
}
