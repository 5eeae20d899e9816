package broker

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification mirrors struct seccomp_notif (include/uapi/linux/seccomp.h). Its last fields are struct seccomp_data.
type notification struct {
	ID     uint64
	PID    uint32 // of the task, not of its thread group
	Flags  uint32
	Number int32
	Arch   uint32
	_      uint64 // instruction pointer
	Args   [6]uint64
}

// response mirrors struct seccomp_notif_resp.
type response struct {
	ID    uint64
	Value int64
	Error int32
	Flags uint32
}

// addFD mirrors struct seccomp_notif_addfd.
type addFD struct {
	ID       uint64
	Flags    uint32
	Source   uint32
	New      uint32
	NewFlags uint32
}

// sizes mirrors struct seccomp_notif_sizes.
type sizes struct{ notification, response, data uint16 }

// Requests on a notification descriptor: SECCOMP_IOW(R) with '!' and the size of the structure.
const (
	requestReceive = 0xc0502100
	requestSend    = 0xc0182101
	requestIDValid = 0x40082102
	requestAddFD   = 0x40182103
	requestFlags   = 0x40082104

	getNotificationSizes = 3 // SECCOMP_GET_NOTIF_SIZES
	responseContinue     = 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
	addFDSend            = 2 // SECCOMP_ADDFD_FLAG_SEND: add and answer in one step
	syncWakeUp           = 1 // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
)

// answer is how a notified call ends.
type answer struct {
	kind  answerKind
	errno unix.Errno
	value int64
	fd    int // of answerInject; the broker closes it
	flags uint32
}

type answerKind uint8

const (
	answerContinue answerKind = iota // the kernel does the call, on the arguments as they are then
	answerValue                      // the call returns value or errno and is not done
	answerInject                     // the call returns a new descriptor of the target for fd
	answerNever                      // nothing: the target is being killed, or waits for a person
	answerAsk                        // not yet: a person is asked (decided)
)

var goOn = answer{kind: answerContinue}

func fail(errno unix.Errno) answer { return answer{kind: answerValue, errno: errno} }

// result is what a call that the broker performed returned.
func result(err error) answer { return answer{kind: answerValue, errno: errnoOf(err)} }

// errnoOf is the number in err, 0 for nil.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	}
	return unix.EIO
}

func inject(fd int, closeOnExec bool) answer {
	a := answer{kind: answerInject, fd: fd}
	if closeOnExec {
		a.flags = unix.O_CLOEXEC
	}
	return a
}

func nativeArch() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

func control(fd int, request uintptr, argument unsafe.Pointer) error {
	// Not RawSyscall: a receive waits, and the scheduler must know.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}

// receive waits for the next notification. The structure must be zero.
func receive(listener int, n *notification) error {
	return control(listener, requestReceive, unsafe.Pointer(n))
}

// valid reports whether the target still waits: only then is what was read under its pid its own.
func (w *worker) valid(n *notification) bool { return w.waits(n) }

// waits is valid outside of workers.
func (b *Broker) waits(n *notification) bool {
	return quickControl(b.options.Listener, requestIDValid, unsafe.Pointer(&n.ID)) == nil
}

// send gives the answer. An error means that the target is gone, and then there is nobody to tell.
func (w *worker) send(n *notification, a answer) { w.reply(n, a) }

// reply is send outside of workers; an injection needs a worker's thread.
func (b *Broker) reply(n *notification, a answer) {
	r := response{ID: n.ID}
	switch a.kind {
	case answerNever, answerAsk:
		return
	case answerInject:
		add := addFD{ID: n.ID, Flags: addFDSend, Source: uint32(a.fd), NewFlags: a.flags}
		err := quickControl(b.options.Listener, requestAddFD, unsafe.Pointer(&add))
		unix.Close(a.fd)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return
		}
		r.Error = -int32(errnoOf(err)) // the target's limit of open files, for example
	case answerContinue:
		r.Flags = responseContinue
	case answerValue:
		r.Value, r.Error = a.value, -int32(a.errno)
	}
	_ = quickControl(b.options.Listener, requestSend, unsafe.Pointer(&r))
}

func checkSizes() error {
	var s sizes
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, getNotificationSizes, 0, uintptr(unsafe.Pointer(&s)))
	if errno != 0 {
		return fmt.Errorf("seccomp notification: %w: Linux 6.1 or newer is needed", errno)
	}
	if s.notification > uint16(unsafe.Sizeof(notification{})) || s.response > uint16(unsafe.Sizeof(response{})) {
		return fmt.Errorf("seccomp notification: this kernel's structures have %d and %d bytes, not 80 and 24", s.notification, s.response)
	}
	return nil
}

// setSyncWakeUp is an optimisation: older kernels do without.
func setSyncWakeUp(listener int) {
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), requestFlags, syncWakeUp)
}

// waitForHangUp returns when no task is under the filter any more.
func waitForHangUp(listener int) error {
	for {
		polled := []unix.PollFd{{Fd: int32(listener)}}
		_, err := unix.Poll(polled, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the agent's end: %w", err)
		}
		if polled[0].Revents != 0 {
			return nil
		}
	}
}

func hungUp(listener int) bool {
	polled := []unix.PollFd{{Fd: int32(listener)}}
	n, err := unix.Poll(polled, 0)
	return err == nil && n > 0 && polled[0].Revents&(unix.POLLHUP|unix.POLLNVAL|unix.POLLERR) != 0
}
