package broker

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls here never wait for anything, so the scheduler need not know of them. That makes a decision a fifth cheaper.

// quickReadlink reads where the object behind an O_PATH descriptor lies.
func quickReadlink(fd int, into []byte) (int, error) {
	var room [12]byte
	name := append(strconv.AppendInt(room[:0], int64(fd), 10), 0)
	length, _, errno := unix.RawSyscall6(unix.SYS_READLINKAT, uintptr(ownDescriptors()), uintptr(unsafe.Pointer(&name[0])),
		uintptr(unsafe.Pointer(&into[0])), uintptr(len(into)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(length), nil
}

// quickClose closes an O_PATH descriptor: nothing is flushed.
func quickClose(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// quickControl is an ioctl of the listener other than receive.
func quickControl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
