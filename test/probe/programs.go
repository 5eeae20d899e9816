package probe

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	maps.Copy(Actions, map[string]func([]string) error{
		"in-child":      inChild,
		"become":        func(a []string) error { return syscall.Exec(a[0], a, os.Environ()) },
		"become-fd":     becomeDescriptor, // flags of open, program, arguments
		"become-memory": becomeMemory,     // flags of memfd_create, program, arguments
		"become-copy":   becomeCopy,       // program, copy, arguments
		"map-program":   mapProgram,       // file
		"map-later":     mapLater,         // file
		"map-own":       mapOwn,
		"map-written":   mapWritten, // file, which is written and then mapped
	})
}

// inChild does an action in a child: one that may never return.
func inChild(a []string) error {
	cmd := exec.Command("/proc/self/exe", slices.Concat(Self, a)...)
	out, err := cmd.Output()
	if len(out) > 0 {
		return answered(out)
	}
	return err
}

// answered turns a printed answer into an error again.
func answered(out []byte) error {
	text := string(out)
	for text != "" && text[len(text)-1] == '\n' {
		text = text[:len(text)-1]
	}
	if text == "ok" {
		return nil
	}
	for n := unix.Errno(1); n < 200; n++ {
		if unix.ErrnoName(n) == text {
			return n
		}
	}
	return fmt.Errorf("%s", text)
}

func executeAt(fd int, path string, argv []string, flags int) error {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	words, err := syscall.SlicePtrFromStrings(argv)
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&words[0])),
		uintptr(unsafe.Pointer(&env[0])), uintptr(flags), 0)
	return errno
}

func becomeDescriptor(a []string) error {
	fd, err := unix.Open(a[1], Flags(a[0]), 0)
	if err != nil {
		return fmt.Errorf("open %s: %v", a[1], err)
	}
	return executeAt(fd, "", a[1:], unix.AT_EMPTY_PATH)
}

func becomeMemory(a []string) error {
	raw, err := os.ReadFile(a[1])
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("program", Number(a[0]))
	if err != nil {
		return fmt.Errorf("memfd_create: %v", err)
	}
	for len(raw) > 0 {
		n, err := unix.Write(fd, raw)
		if err != nil {
			return fmt.Errorf("write: %v", err)
		}
		raw = raw[n:]
	}
	_ = unix.Fchmod(fd, 0o755)
	return executeAt(fd, "", a[1:], unix.AT_EMPTY_PATH)
}

func becomeCopy(a []string) error {
	raw, err := os.ReadFile(a[0])
	if err == nil {
		err = os.WriteFile(a[1], raw, 0o755)
	}
	if err != nil {
		return fmt.Errorf("copy: %v", err)
	}
	return syscall.Exec(a[1], a[1:], os.Environ())
}

// mapFile maps the first page of a file and calls with it.
func mapFile(path string, protection int, with func([]byte) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %v", path, err)
	}
	defer unix.Close(fd)
	page, err := unix.Mmap(fd, 0, 4096, protection, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(page)
	return with(page)
}

func mapProgram(a []string) error {
	return mapFile(a[0], unix.PROT_READ|unix.PROT_EXEC, func([]byte) error { return nil })
}

func mapLater(a []string) error {
	return mapFile(a[0], unix.PROT_READ, func(page []byte) error { return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC) })
}

func mapWritten(a []string) error {
	if err := os.WriteFile(a[0], make([]byte, 4096), 0o755); err != nil {
		return fmt.Errorf("write: %v", err)
	}
	return mapProgram(a)
}

func mapOwn([]string) error {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(page)
	return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC)
}
