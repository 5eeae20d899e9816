package probe

import (
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

func init() {
	Actions["raw"] = raw
	Actions["missing"] = func(a []string) error { // is a call missing on this architecture?
		if _, ok := policy.SyscallNumber(runtime.GOARCH, a[0]); ok {
			return fmt.Errorf("%s exists", a[0])
		}
		return nil
	}
}

// ErrNoCall is the answer to a call that this architecture never had.
const ErrNoCall = "no such call on this architecture"

// returnsDescriptor are the calls whose result is closed again.
var returnsDescriptor = map[string]bool{
	"open": true, "openat": true, "openat2": true, "creat": true, "memfd_create": true, "memfd_secret": true, "socket": true,
	"pidfd_open": true, "pidfd_getfd": true, "eventfd2": true, "epoll_create1": true, "userfaultfd": true, "inotify_init1": true,
}

// raw makes a system call by name. Each argument is a number, or
//
//	s:TEXT        the address of a text that ends with a zero byte
//	b:HEX         the address of bytes
//	z:N           the address of N zero bytes
//	fd:PATH       a descriptor of PATH, open for reading
//	path:PATH     one that is only a name (O_PATH)
//	argv:WORDS    the address of a list of texts, parted by |
//	self          this process's number
func raw(a []string) error {
	number, ok := policy.SyscallNumber(runtime.GOARCH, a[0])
	if !ok {
		return fmt.Errorf("%s", ErrNoCall)
	}
	var args [6]uintptr
	var kept []any
	for i, text := range a[1:] {
		value, keep, done, err := argument(text)
		if err != nil {
			return err
		}
		defer done()
		args[i] = value
		kept = append(kept, keep)
	}
	result, _, errno := unix.Syscall6(uintptr(number), args[0], args[1], args[2], args[3], args[4], args[5])
	runtime.KeepAlive(kept)
	if errno != 0 {
		return errno
	}
	if returnsDescriptor[a[0]] {
		unix.Close(int(result))
	}
	return nil
}

// argument is the value of one word, what must stay in memory for it, and what ends its use.
func argument(text string) (value uintptr, keep any, done func(), err error) {
	done = func() {}
	kind, rest, marked := strings.Cut(text, ":")
	if text == "self" {
		return uintptr(os.Getpid()), nil, done, nil
	}
	if !marked {
		return uintptr(Number(text)), nil, done, nil
	}
	switch kind {
	case "s":
		bytes := append([]byte(rest), 0)
		return uintptr(unsafe.Pointer(&bytes[0])), bytes, done, nil
	case "b", "z":
		bytes, err := hex.DecodeString(rest)
		if kind == "z" {
			bytes, err = make([]byte, Number(rest)), nil
		}
		if err != nil || len(bytes) == 0 {
			return 0, nil, done, fmt.Errorf("argument %q: %v", text, err)
		}
		return uintptr(unsafe.Pointer(&bytes[0])), bytes, done, nil
	case "fd", "path":
		flags := unix.O_RDONLY
		if kind == "path" {
			flags = unix.O_PATH
		}
		fd, err := unix.Open(rest, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, nil, done, fmt.Errorf("argument %q: %v", text, err)
		}
		return uintptr(fd), nil, func() { unix.Close(fd) }, nil
	case "argv":
		var list []*byte
		for _, word := range strings.Split(rest, "|") {
			one, err := unix.BytePtrFromString(word)
			if err != nil {
				return 0, nil, done, err
			}
			list = append(list, one)
		}
		list = append(list, nil)
		return uintptr(unsafe.Pointer(&list[0])), list, done, nil
	}
	return 0, nil, done, fmt.Errorf("argument %q has no meaning", text)
}

func init() {
	Actions["descriptors"] = func(a []string) error { // has so many open at once
		for range Number(a[0]) {
			fd, err := unix.Dup(0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
		}
		return nil
	}
}
