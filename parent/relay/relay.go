// Package relay lets the warden of an agent look into that agent's processes where the kernel lets root alone do so.
//
// Under kernel.yama.ptrace_scope 1 and 2 (security/yama/yama_lsm.c) only an ancestor or CAP_SYS_PTRACE may read the memory of a
// process or duplicate a descriptor of it. A warden is neither: it runs as its agent's user, without capabilities, beside the
// agent. raypherd may. So its Server hands out two things over a socket of its own, as gRPC carries no descriptors:
//
//   - a descriptor of /proc/<task>/mem, for reading only;
//   - a duplicate of one descriptor of a task, as pidfd_getfd makes it.
//
// Both only to a process that raypherd knows as the warden of an agent, and only of tasks that are in this agent's cgroup, have no
// more rights than the agent, and cannot gain any. That is no more than the warden could take itself without Yama, and nothing of
// it is writing. An agent cannot speak to the Server: no
// broker connects its agent there, and whoever is inside an agent is no warden.
//
// The Client is the warden's end. Package broker reads through the descriptors; raypherd reads nothing.
package relay

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What kernel.yama.ptrace_scope may be (Documentation/admin-guide/LSM/Yama.rst).
const (
	NoYama         = -1 // the kernel has no Yama, or it is not active
	ScopeClassic   = 0  // who runs as the same user may look
	ScopeAncestors = 1  // only an ancestor or CAP_SYS_PTRACE
	ScopeAdmin     = 2  // only CAP_SYS_PTRACE
	ScopeNobody    = 3  // nobody, not even root, until the machine is started anew
)

const scopeFile = "/proc/sys/kernel/yama/ptrace_scope"

// Scope is kernel.yama.ptrace_scope now. What cannot be read as a number counts as NoYama: what the kernel then refuses stays
// refused.
func Scope() int {
	raw, err := os.ReadFile(scopeFile)
	if err != nil {
		return NoYama
	}
	scope, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return NoYama
	}
	return scope
}

// kind is what is asked for.
type kind uint32

const (
	askMemory     kind = 'm'
	askDescriptor kind = 'd'
)

// request is one question: one packet of sizeRequest bytes, in the byte order of the machine.
type request struct {
	kind   kind
	task   int32 // a thread or process, as a number of raypherd's pid namespace
	number int32 // of askDescriptor: which
}

// Sizes of packets in bytes. A reply is an errno, 0 when the descriptor comes with it.
const (
	sizeRequest = 12
	sizeReply   = 4
)

var errMalformed = errors.New("malformed packet")

func (r request) encode() []byte {
	b := make([]byte, 0, sizeRequest)
	b = binary.NativeEndian.AppendUint32(b, uint32(r.kind))
	b = binary.NativeEndian.AppendUint32(b, uint32(r.task))
	return binary.NativeEndian.AppendUint32(b, uint32(r.number))
}

// decodeRequest reads a packet. Only what can be answered is decoded: known kinds, a task above 0 and a number of at least 0.
func decodeRequest(b []byte) (request, error) {
	if len(b) != sizeRequest {
		return request{}, errMalformed
	}
	r := request{
		kind:   kind(binary.NativeEndian.Uint32(b)),
		task:   int32(binary.NativeEndian.Uint32(b[4:])),
		number: int32(binary.NativeEndian.Uint32(b[8:])),
	}
	if r.kind != askMemory && r.kind != askDescriptor || r.task <= 0 || r.number < 0 || r.kind == askMemory && r.number != 0 {
		return request{}, errMalformed
	}
	return r, nil
}

func encodeReply(errno unix.Errno) []byte {
	return binary.NativeEndian.AppendUint32(nil, uint32(errno))
}

// decodeReply reads an errno.
func decodeReply(b []byte) (unix.Errno, error) {
	if len(b) != sizeReply {
		return 0, errMalformed
	}
	return unix.Errno(binary.NativeEndian.Uint32(b)), nil
}
