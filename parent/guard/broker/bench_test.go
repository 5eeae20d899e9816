package broker

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

// BenchmarkAnswer is what deciding one open costs the warden, without the notification itself: this process asks itself.
func BenchmarkAnswer(b *testing.B) {
	permit := &policy.Policy{Mode: policy.Enforce, Filesystem: &policy.Filesystem{Read: []string{"/usr/**", "/etc/pass*"}}}
	broker := &Broker{options: Options{
		Permit: permit, Coverage: floor.Covers([]floor.Grant{{Path: "/usr", Tree: true, Access: policy.Read}}, false), Listener: -1,
	}}
	broker.calls = callTable(permit)
	broker.rules.Store(newRuling(permit, false))
	w := &worker{Broker: broker}
	path := append([]byte("/usr/bin/env"), 0)
	openat, _ := policy.SyscallNumber("amd64", "openat")
	folder := unix.AT_FDCWD
	n := &notification{PID: uint32(os.Getpid()), Arch: nativeArch(), Number: int32(openat),
		Args: [6]uint64{uint64(folder), uint64(uintptr(unsafe.Pointer(&path[0]))), unix.O_RDONLY}}
	for b.Loop() {
		if a := w.answer(n); a.kind != answerContinue {
			b.Fatalf("%+v", a)
		}
	}
}
