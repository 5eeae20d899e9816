package broker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/relay"
)

const pageSize = 4096 // no supported architecture has smaller pages; larger ones are only read in more steps

// memory reads the target's memory at address into b, all of it.
func (w *worker) memory(n *notification, address uint64, b []byte) error {
	got, err := w.readSome(n, address, b)
	if err != nil {
		return err
	}
	if got != len(b) {
		return unix.EFAULT
	}
	return nil
}

func (w *worker) readSome(n *notification, address uint64, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if address == 0 {
		return 0, unix.EFAULT
	}
	got, err := 0, error(unix.EPERM)
	if !w.relayed.Load() {
		got, err = w.readDirectly(n.PID, address, b)
	}
	if err == unix.EPERM && w.mayRelay() {
		got, err = w.memories.read(w, n, address, b)
		w.heard(err)
	}
	if err == unix.ESRCH {
		err = unix.EINTR // it is being killed
	}
	return got, err
}

// readDirectly is process_vm_readv without its allocations. It may wait: what is mapped there can lie in a slow file.
func (w *worker) readDirectly(pid uint32, address uint64, b []byte) (int, error) {
	w.local.Base = &b[0]
	w.local.SetLen(len(b))
	w.remote = unix.RemoteIovec{Base: uintptr(address), Len: len(b)}
	got, _, errno := unix.Syscall6(unix.SYS_PROCESS_VM_READV, uintptr(pid), uintptr(unsafe.Pointer(&w.local)), 1,
		uintptr(unsafe.Pointer(&w.remote)), 1, 0)
	w.local.Base = nil
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// mayRelay reports, after a refusal by the kernel, whether it was Yama's and raypherd can be asked instead. Once that is so, it
// is asked for the rest of the run.
func (b *Broker) mayRelay() bool {
	if b.relayed.Load() {
		return true
	}
	if b.memories == nil || relay.Scope() <= relay.ScopeClassic {
		return false
	}
	b.relayed.Store(true)
	return true
}

// heard notes when raypherd did not answer.
func (w *worker) heard(err error) {
	if errors.Is(err, relay.ErrAway) {
		w.away = true
	}
}

// shortText is how much of a string is read first, in bytes.
const shortText = 256

// text reads a string that ends with a zero byte, of at most limit bytes with it; tooLong is the error for a longer one.
func (w *worker) text(n *notification, address uint64, limit int, tooLong unix.Errno) (string, error) {
	limit = min(limit, len(w.bytes))
	for have := 0; have < limit; {
		at := address + uint64(have)
		// Never across a page in one step: the next page may be missing, and the string may end before it. Most are short.
		chunk := min(limit-have, pageSize-int(at%pageSize), max(shortText, have))
		got, err := w.readSome(n, at, w.bytes[have:have+chunk])
		if err != nil {
			return "", err
		}
		if end := bytes.IndexByte(w.bytes[have:have+got], 0); end >= 0 {
			return string(w.bytes[:have+end]), nil
		}
		have += got
	}
	return "", tooLong
}

// pathArgument reads a path.
func (w *worker) pathArgument(n *notification, address uint64) (string, error) {
	return w.text(n, address, unix.PathMax, unix.ENAMETOOLONG)
}

// procPath is a file of the target in /proc. A thread's id works like that of a process there.
func procPath(pid uint32, name string) string {
	return "/proc/" + strconv.Itoa(int(pid)) + "/" + name
}

// status is what /proc/<pid>/status says of a task.
type status struct {
	group int // thread group
	umask int
}

func readStatus(pid uint32) (status, error) {
	raw, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return status{}, fmt.Errorf("read the target's status: %w", err)
	}
	return parseStatus(string(raw)), nil
}

// parseStatus finds the fields that the broker needs. A missing umask is the strictest one.
func parseStatus(raw string) status {
	s := status{umask: 0o777}
	for line := range strings.Lines(raw) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Umask":
			if mask, err := strconv.ParseUint(value, 8, 16); err == nil {
				s.umask = int(mask & 0o777)
			}
		case "Tgid":
			s.group, _ = strconv.Atoi(value)
		}
	}
	return s
}

// comm is the target's name for a verdict.
func comm(pid uint32) string {
	raw, err := os.ReadFile(procPath(pid, "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(raw), "\n")
}

// belongs reports whether a process is one of the agent's: in its cgroup, or where there is none, the target's own.
func (b *Broker) belongs(pid, targetGroup int) bool {
	if pid == targetGroup {
		return true
	}
	if b.options.Cgroup == "" {
		return false
	}
	raw, err := os.ReadFile(procPath(uint32(pid), "cgroup"))
	if err != nil {
		return false
	}
	return inCgroup(string(raw), b.options.Cgroup)
}

// inCgroup reads /proc/<pid>/cgroup; the line of cgroup2 starts with 0::.
func inCgroup(raw, cgroup string) bool {
	for line := range strings.Lines(raw) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path == cgroup || strings.HasPrefix(path, cgroup+"/")
		}
	}
	return false
}

// withUmask runs make under the target's umask. The worker's thread has one of its own.
func (w *worker) withUmask(n *notification, make func() error) error {
	s, err := readStatus(n.PID)
	if err != nil {
		return unix.EINTR
	}
	if !w.valid(n) {
		return unix.EINTR
	}
	unix.Umask(s.umask)
	err = make()
	unix.Umask(0)
	return err
}
