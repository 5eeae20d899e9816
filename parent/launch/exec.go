package launch

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func pointers(words []string) ([]*byte, error) { return syscall.SlicePtrFromStrings(words) }

func execveat(folder int, path string, argv, env []*byte, flags int) error {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(folder), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])), uintptr(flags), 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(env)
	return errno
}

// restoreFileLimit puts back the soft limit of open files with which this process was started. Go raises it for itself, and
// the program must not inherit that. syscall.Exec puts it back before it executes, and this one cannot execute anything.
func restoreFileLimit() { _ = syscall.Exec("", []string{""}, nil) }
