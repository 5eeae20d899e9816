// Package vm runs the programs in virtual machines with kernels other than this machine's: the oldest that is supported and
// newer ones, each with Yama. scripts/vm.sh gets the kernels.
package vm

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/internal/initramfs"
)

// kernelsVariable names kernels, separated by colons.
const kernelsVariable = "RAYPHER_TEST_KERNELS"

// limit bounds a machine's whole life. It is emulated: on a busy host each step takes seconds.
const limit = 12 * time.Minute

// TestGuests: under each kernel and each kernel.yama.ptrace_scope an agent of root and of a user reads, writes, executes,
// connects and is refused as its policy says; raypherd is killed and comes back.
func TestGuests(t *testing.T) {
	kernels := os.Getenv(kernelsVariable)
	if kernels == "" {
		t.Skip(kernelsVariable + " names no kernels: run scripts/vm.sh")
	}
	images := make(map[string]string) // by architecture
	for _, kernel := range strings.Split(kernels, ":") {
		kind := kindOf(kernel)
		qemu, err := exec.LookPath(kind.qemu)
		if err != nil {
			t.Fatalf("%s: %v: run scripts/vm.sh", kernel, err)
		}
		if images[kind.architecture] == "" {
			images[kind.architecture] = filepath.Join(t.TempDir(), "initramfs")
			if err := os.WriteFile(images[kind.architecture], build(t, kind.architecture, nil), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-"), func(t *testing.T) {
			t.Parallel()
			boot(t, append([]string{qemu}, kind.arguments...), kind.console, kernel, images[kind.architecture])
		})
	}
}

// heldKernelsVariable names the kernels of TestFilesHeldInGuests, separated by colons.
const heldKernelsVariable = "RAYPHER_TEST_LSM_KERNELS"

// heldLine has the kernel call programs of BPF LSM.
const heldLine = "lsm=landlock,lockdown,yama,integrity,bpf raypher.backend=lsm"

// TestFilesHeldInGuests: the same checks where programs of BPF LSM hold files, under the oldest and a newer kernel; and what only they do:
// they hold while raypherd is away, follow a permit that is narrowed, and kill before a call has an effect; they hold programs that were
// attached, and a call that waits for a person is done once, or not at all.
func TestFilesHeldInGuests(t *testing.T) {
	kernels := os.Getenv(heldKernelsVariable)
	if kernels == "" {
		t.Skip(heldKernelsVariable + " names no kernels: run scripts/vm.sh")
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(image, build(t, "amd64", nil), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kernel := range strings.Split(kernels, ":") {
		kind := kindOf(kernel)
		qemu, err := exec.LookPath(kind.qemu)
		if err != nil {
			t.Skipf("%v: run scripts/vm.sh", err)
		}
		// One after the other: each has the host's processors to itself.
		t.Run(strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-"), func(t *testing.T) {
			boot(t, append([]string{qemu}, kind.arguments...), kind.console+" "+heldLine, kernel, image)
		})
	}
}

// TestTableInGuests: under the oldest and a newer kernel, where programs of BPF LSM hold files, the table of test/conformance comes to
// what docs/conformance.md says, as root and as a user.
func TestTableInGuests(t *testing.T) {
	kernels := os.Getenv(heldKernelsVariable)
	if kernels == "" {
		t.Skip(heldKernelsVariable + " names no kernels: run scripts/vm.sh")
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(image, build(t, "amd64", nil), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kernel := range strings.Split(kernels, ":") {
		kind := kindOf(kernel)
		qemu, err := exec.LookPath(kind.qemu)
		if err != nil {
			t.Skipf("%v: run scripts/vm.sh", err)
		}
		t.Run(strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-"), func(t *testing.T) {
			bootFor(t, 3*limit, append([]string{qemu}, kind.arguments...), kind.console+" "+heldLine+" raypher.table", kernel, image)
		})
	}
}

// TestBypassInGuests: under the oldest and a newer kernel, where programs of BPF LSM hold files, the programs of test/bypass get out as
// little as natively under the broker.
func TestBypassInGuests(t *testing.T) {
	kernels := os.Getenv(heldKernelsVariable)
	if kernels == "" {
		t.Skip(heldKernelsVariable + " names no kernels: run scripts/vm.sh")
	}
	tests := filepath.Join(t.TempDir(), "bypass.test")
	cmd := exec.Command("go", "test", "-c", "-ldflags=-s -w", "-o", tests, "../bypass")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build ../bypass: %v\n%s", err, out)
	}
	content, err := os.ReadFile(tests)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(image, build(t, "amd64", map[string][]byte{"bin/bypass.test": content}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kernel := range strings.Split(kernels, ":") {
		kind := kindOf(kernel)
		qemu, err := exec.LookPath(kind.qemu)
		if err != nil {
			t.Skipf("%v: run scripts/vm.sh", err)
		}
		t.Run(strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-"), func(t *testing.T) {
			bootFor(t, 2*limit, append([]string{qemu}, kind.arguments...), kind.console+" "+heldLine+" raypher.bypass", kernel, image)
		})
	}
}

// BenchmarkFilesHeldInGuests prints, in each of those machines, what opening a file costs under programs of BPF LSM beside what it costs
// without a guard and under Landlock, as ratios.
func BenchmarkFilesHeldInGuests(b *testing.B) {
	kernels := os.Getenv(heldKernelsVariable)
	if kernels == "" {
		b.Skip(heldKernelsVariable + " names no kernels")
	}
	image := filepath.Join(b.TempDir(), "initramfs")
	if err := os.WriteFile(image, build(b, "amd64", nil), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, kernel := range strings.Split(kernels, ":") {
		kind := kindOf(kernel)
		qemu, err := exec.LookPath(kind.qemu)
		if err != nil {
			b.Skip(err)
		}
		b.Run(strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-"), func(b *testing.B) {
			// The machine's clock counts instructions, one a nanosecond: what others do on this host does not show.
			counted := append([]string{qemu, "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"}, kind.arguments...)
			bootFor(b, 15*time.Minute, counted, kind.console+" "+heldLine+" raypher.speed", kernel, image)
		})
	}
}

// kernelVariable names the kernel of TestVsockGuest.
const kernelVariable = "RAYPHER_TEST_KERNEL"

// vsockModules send the vsock packets of a machine to itself, below the kernel's folder of modules, in the order in which they need each other.
var vsockModules = []string{"net/vmw_vsock/vsock.ko", "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko", "net/vmw_vsock/vsock_loopback.ko"}

// TestVsockGuest: raypher-enclave serves on vsock, first a hostile parent, then raypherd --enclave-cid, under which an agent runs; also after
// the enclave was started anew.
func TestVsockGuest(t *testing.T) {
	kernel := os.Getenv(kernelVariable)
	if kernel == "" {
		t.Skip(kernelVariable + " names no kernel: run scripts/vm.sh")
	}
	kind := kindOf(kernel)
	qemu, err := exec.LookPath(kind.qemu)
	if err != nil {
		t.Skipf("%v: run scripts/vm.sh", err)
	}
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	folder := filepath.Join(filepath.Dir(kernel), "..", "lib", "modules", version, "kernel")
	more := make(map[string][]byte)
	for i, name := range vsockModules {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		more[fmt.Sprintf("modules/%d-%s", i, filepath.Base(name))] = content
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(image, build(t, kind.architecture, more), 0o600); err != nil {
		t.Fatal(err)
	}
	boot(t, append([]string{qemu}, kind.arguments...), kind.console, kernel, image)
}

// kind is what machines of one architecture differ in.
type kind struct {
	architecture string // as Go names it
	qemu         string
	arguments    []string
	console      string
}

// kindOf tells the architecture by the kernel's name, which in Debian ends with it.
//
// Of an amd64 processor all is emulated but for two: QEMU 7.2 computes wrong flags for cmpxchg16b now and then, which kills newer
// kernels, and page tables of five levels only cost time. An arm64 one signs pointers by a cheaper algorithm than its own.
func kindOf(kernel string) kind {
	if strings.HasSuffix(kernel, "-arm64") {
		return kind{"arm64", "qemu-system-aarch64", []string{"-M", "virt", "-cpu", "max,pauth-impdef=on"}, "ttyAMA0"}
	}
	return kind{"amd64", "qemu-system-x86_64", []string{"-M", "q35", "-cpu", "max,cx16=off,la57=off"}, "ttyS0"}
}

// emulatorFault is a kernel that finds a breakpoint of its own which it has taken away already: on attaching a program it changes its code
// while others run it, and QEMU 7.2 shows another of its processors what was there before.
const emulatorFault = "Oops: int3: 0000"

// boot runs one machine, and once more if the first one never got to its first process.
func boot(t testing.TB, qemu []string, consoleDevice, kernel, image string) {
	bootFor(t, limit, qemu, consoleDevice, kernel, image)
}

func bootFor(t testing.TB, limit time.Duration, qemu []string, consoleDevice, kernel, image string) {
	for attempt := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		machine := exec.CommandContext(ctx, qemu[0], append(qemu[1:], "-accel", "tcg", "-m", "2048", "-smp", "2", "-nographic", "-no-reboot",
			"-nodefaults", "-serial", "stdio", "-kernel", kernel, "-initrd", image, "-append", "console="+consoleDevice+" panic=-1 quiet")...)
		said := &transcript{t: t}
		machine.Stdout, machine.Stderr = said, said
		err := machine.Run()
		cancel()
		console := said.all.Bytes()
		switch {
		case err == nil && bytes.Contains(console, []byte("GUEST PASS")):
			return
		case attempt == 0 && !bytes.Contains(console, []byte("GUEST")):
			t.Logf("the machine did not start (%v): once more", err)
		case attempt == 0 && bytes.Contains(console, []byte(emulatorFault)):
			t.Logf("the emulator's processor stumbled over code that the kernel had changed: once more")
		default:
			t.Fatalf("%v\n%s", err, console)
		}
	}
}

// transcript is what a machine says, of which the guest's own lines are told as they come.
type transcript struct {
	t    testing.TB
	all  bytes.Buffer
	told int
}

func (s *transcript) Write(text []byte) (int, error) {
	s.all.Write(text)
	for {
		line, _, whole := bytes.Cut(s.all.Bytes()[s.told:], []byte("\n"))
		if !whole {
			return len(text), nil
		}
		s.told += len(line) + 1
		if at := bytes.Index(line, []byte("GUEST")); at >= 0 {
			s.t.Log(string(bytes.TrimSpace(line[at:])))
		}
	}
}

// build is an initramfs with the programs, the guest's own, and more files.
func build(t testing.TB, architecture string, more map[string][]byte) []byte {
	t.Helper()
	folder := t.TempDir()
	for name, path := range map[string]string{
		"guest": "./guest", "raypher": "../../cmd/raypher-run", "raypher-cli": "../../cmd/raypher", "raypherd": "../../cmd/raypherd", "raypher-enclave": "../../cmd/raypher-enclave",
		"probe": "../probe/program",
	} {
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(folder, name), path)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+architecture)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", path, err, out)
		}
	}
	var image bytes.Buffer
	w := initramfs.NewWriter(&image)
	for _, name := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "var"} {
		w.Folder(name)
	}
	for name, from := range map[string]string{
		"init": "guest", "bin/guest": "guest", "bin/copy": "guest",
		"bin/raypher": "raypher", "bin/raypher-cli": "raypher-cli", "bin/raypherd": "raypherd", "bin/raypher-enclave": "raypher-enclave",
		"bin/probe": "probe",
	} {
		content, err := os.ReadFile(filepath.Join(folder, from))
		if err != nil {
			t.Fatal(err)
		}
		w.File(name, 0o755, content)
	}
	names := slices.Sorted(maps.Keys(more))
	if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "modules/") }) {
		w.Folder("modules")
	}
	for _, name := range names {
		w.File(name, 0o755, more[name])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return image.Bytes()
}
