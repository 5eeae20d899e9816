package lsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
)

// sweepEvery is how often what was not recorded one by one is collected.
const sweepEvery = time.Second

// Run calls report for each event until ctx ends; one Run at a time. report is called from one goroutine and should not block:
// what finds the ring buffer full is counted, and reported as a count.
func (g *Guard) Run(ctx context.Context, report func(Event)) error {
	r, err := ringbuf.NewReader(g.maps.Events)
	if err != nil {
		return explain("file guard: opening the events", err)
	}
	defer r.Close()
	g.drains.Open(r)
	defer g.drains.Close()
	defer context.AfterFunc(ctx, func() { r.Close() })()
	next := time.Now().Add(sweepEvery)
	var record ringbuf.Record
	for {
		r.SetDeadline(next)
		err := r.ReadInto(&record)
		switch {
		case err == nil:
			if e, ok := decodeEvent(record.RawSample); ok {
				report(e)
			}
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case errors.Is(err, ringbuf.ErrFlushed):
			if err := g.sweep(report); err != nil {
				return err
			}
			g.drains.Flushed()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return explain("file guard: reading events", err)
		}
		if now := time.Now(); !now.Before(next) {
			if err := g.sweep(report); err != nil {
				return err
			}
			next = now.Add(sweepEvery)
		}
	}
}

// Drain waits until Run has reported what was refused before the call, counts too, or until ctx ends. Without a Run it does nothing.
func (g *Guard) Drain(ctx context.Context) error { return explain("file guard", g.drains.Wait(ctx)) }

// sweep reports, for each agent, how many refusals were not handed over as events since the last time.
func (g *Guard) sweep(report func(Event)) error {
	var id uint64
	var c bpf.LsmguardCounters
	it := g.maps.Counts.Iterate()
	for it.Next(&id, &c) {
		news, mode, err := g.untold(id)
		if err != nil {
			return err
		}
		for _, one := range []struct {
			count  uint64
			reason Reason
		}{{news.Suppressed, Flood}, {news.Lost, Lost}} {
			if one.count > 0 {
				report(Event{Time: time.Now(), CgroupID: id, Operation: "any", Hook: "lsm", Reason: one.reason, Mode: mode, Count: one.count})
			}
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return explain("file guard: reading counters", err)
	}
	return nil
}

// untold returns what of an agent's counters was not told yet, and takes it for told. Count and note are read together: Disarm takes both
// away, and a count from before with no note of what was told of it would be told a second time.
func (g *Guard) untold(id uint64) (Counters, policy.Mode, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var c bpf.LsmguardCounters
	switch err := g.maps.Counts.Lookup(id, &c); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return Counters{}, policy.Enforce, nil
	case err != nil:
		return Counters{}, policy.Enforce, explain("file guard: reading counters", err)
	}
	told := g.told[id]
	g.told[id] = Counters{Suppressed: c.Suppressed, Lost: c.Lost}
	return Counters{Suppressed: c.Suppressed - told.Suppressed, Lost: c.Lost - told.Lost}, g.mode(id), nil
}

func (g *Guard) mode(id uint64) policy.Mode {
	entry, err := g.entry(id)
	if err != nil {
		return policy.Enforce
	}
	return modeName(entry.Mode)
}

// decodeEvent reads one record of the ring buffer, whose path is as long as it says; false: another version of the guard made it.
func decodeEvent(raw []byte) (Event, bool) {
	var e bpf.LsmguardEvent
	head := binary.Size(e) - len(e.Path)
	if len(raw) < head || len(raw) > binary.Size(e)+8 {
		return Event{}, false
	}
	whole := make([]byte, binary.Size(e))
	copy(whole, raw)
	if err := binary.Read(bytes.NewReader(whole), binary.NativeEndian, &e); err != nil {
		return Event{}, false
	}
	if int(e.Length) > len(raw)-head {
		return Event{}, false
	}
	return Event{
		Time:      time.Now().Add(time.Duration(int64(e.Time) - bootTime())),
		CgroupID:  e.Cgroup,
		PID:       e.Pid,
		Thread:    e.Thread,
		Comm:      text(e.Comm[:]),
		Operation: operations[e.Operation],
		Hook:      hooks[e.Hook],
		Path:      string(whole[head : head+int(e.Length)]),
		Detail:    e.Detail,
		Access:    policy.Access(e.Access),
		Reason:    Reason(e.Reason),
		Mode:      modeName(e.Mode),
		Errno:     e.Error,
		Count:     1,
	}, true
}

// text is a string of the kernel up to its zero byte.
func text(c []int8) string {
	b := make([]byte, 0, len(c))
	for _, x := range c {
		if x == 0 {
			break
		}
		b = append(b, byte(x))
	}
	return string(b)
}

func modeName(m bpf.LsmguardMode) policy.Mode {
	switch m {
	case bpf.LsmguardModeMODE_AUDIT:
		return policy.Audit
	case bpf.LsmguardModeMODE_PERMISSIVE:
		return policy.Permissive
	}
	return policy.Enforce
}

// Verdict puts an event into the words of the journal. The caller adds whose agent it was.
func (g *Guard) Verdict(e Event) journal.Verdict {
	v := journal.Verdict{
		Time: e.Time.UnixNano(), PID: e.PID, Comm: e.Comm, Decision: journal.Block, Layer: e.Hook, Operation: e.Operation, Target: e.Path,
		Rule: reasons[e.Reason], Errno: e.Errno, Count: uint32(min(e.Count, 1<<32-1)),
	}
	if e.Mode != policy.Enforce {
		v.Decision, v.Errno = journal.WouldBlock, 0
	}
	if e.Operation == "create" && e.Hook == hooks[bpf.LsmguardHookHOOK_FILE_OPEN] {
		v.Target = filepath.Dir(e.Path) // O_TMPFILE: its own name says nothing
	}
	if v.Target == "" {
		v.Target = target(e)
	}
	if e.Reason == NotGranted || e.Reason == Approval {
		g.mu.Lock()
		r := g.rules[e.CgroupID]
		g.mu.Unlock()
		if r != nil && e.Path != "" {
			v.Rule = r.files.Decide(e.Path, e.Access).Rule
		}
		if r != nil && v.Rule == "" && e.Operation == "map-exec" {
			v.Rule = r.unmapped(e.Path)
		}
	}
	return v
}

// unmapped says why what no rule names is not mapped for execution, as package broker words it.
func (r *ruling) unmapped(path string) string {
	switch {
	case r.files.Decide(path, policy.Read).Verdict == policy.VerdictBlock:
		return ""
	case r.files.Decide(path, policy.Write).Verdict != policy.VerdictBlock:
		return "what the agent may write is executed by an exec rule only"
	}
	return "a program is executed by an exec rule only"
}

// target says what was refused where there is no path.
func target(e Event) string {
	if e.Reason == Nameless {
		return "a file without a path"
	}
	switch e.Operation {
	case "capability":
		return fmt.Sprintf("capability %d", e.Detail)
	case "ioctl":
		return fmt.Sprintf("request %#x", e.Detail)
	case "signal":
		return fmt.Sprintf("signal %d to another's process", e.Detail)
	case "ptrace", "schedule":
		return "another's process"
	case "connect", "sendto":
		return "a socket without a path that is not the agent's"
	case "any":
		return "several"
	case "anonymous":
		return map[uint32]string{0: "io_uring", 1: "userfaultfd"}[e.Detail]
	}
	return e.Operation
}

// reasons that are not rules of the policy, as package broker words them.
var reasons = map[Reason]string{
	Expired: "the visa has expired", UnknownAgent: "the cgroup is not armed", Unreadable: "its path cannot be told", Closed: "closed to every agent",
	Sealed: "never written by agents", Widens: "moving it would widen what may be done with it", SetID: "set-user-id and set-group-id bits",
	Foreign: "a process that is not the agent's", Hash: "its content has another SHA-256 than the policy says", Never: "never granted to agents",
	Nameless: "a program without a path", Flood: "more refusals than are recorded one by one", Lost: "refusals that found the ring buffer full",
}

var operations = map[bpf.LsmguardOperation]string{
	bpf.LsmguardOperationOP_OPEN_READ: "open-read", bpf.LsmguardOperationOP_OPEN_WRITE: "open-write", bpf.LsmguardOperationOP_OPEN_READ_WRITE: "open-read-write",
	bpf.LsmguardOperationOP_EXEC: "exec", bpf.LsmguardOperationOP_MAP_EXEC: "map-exec", bpf.LsmguardOperationOP_CREATE: "create",
	bpf.LsmguardOperationOP_MKNOD: "mknod", bpf.LsmguardOperationOP_MKDIR: "mkdir", bpf.LsmguardOperationOP_SYMLINK: "symlink",
	bpf.LsmguardOperationOP_LINK: "link", bpf.LsmguardOperationOP_RENAME: "rename", bpf.LsmguardOperationOP_UNLINK: "unlink",
	bpf.LsmguardOperationOP_RMDIR: "rmdir", bpf.LsmguardOperationOP_CHMOD: "chmod", bpf.LsmguardOperationOP_CHOWN: "chown",
	bpf.LsmguardOperationOP_TRUNCATE: "truncate", bpf.LsmguardOperationOP_CHROOT: "chroot", bpf.LsmguardOperationOP_UTIMES: "utimes",
	bpf.LsmguardOperationOP_SETXATTR: "setxattr", bpf.LsmguardOperationOP_REMOVEXATTR: "removexattr", bpf.LsmguardOperationOP_WRITE: "write",
	bpf.LsmguardOperationOP_RECEIVE: "receive", bpf.LsmguardOperationOP_IOCTL: "ioctl", bpf.LsmguardOperationOP_ANON: "anonymous",
	bpf.LsmguardOperationOP_CONNECT: "connect", bpf.LsmguardOperationOP_SENDTO: "sendto", bpf.LsmguardOperationOP_SIGNAL: "signal",
	bpf.LsmguardOperationOP_PTRACE: "ptrace", bpf.LsmguardOperationOP_SCHEDULE: "schedule", bpf.LsmguardOperationOP_CLONE: "clone",
	bpf.LsmguardOperationOP_CAPABILITY: "capability", bpf.LsmguardOperationOP_MOUNT: "mount", bpf.LsmguardOperationOP_UMOUNT: "umount",
	bpf.LsmguardOperationOP_NAMESPACE: "namespace", bpf.LsmguardOperationOP_BPF: "bpf", bpf.LsmguardOperationOP_PERF: "perf",
	bpf.LsmguardOperationOP_KEYCTL: "keyctl", bpf.LsmguardOperationOP_KERNEL: "kernel",
}

var hooks = map[bpf.LsmguardHook]string{
	bpf.LsmguardHookHOOK_FILE_OPEN: "lsm/file_open", bpf.LsmguardHookHOOK_FILE_PERMISSION: "lsm/file_permission", bpf.LsmguardHookHOOK_FILE_RECEIVE: "lsm/file_receive",
	bpf.LsmguardHookHOOK_FILE_IOCTL: "lsm/file_ioctl", bpf.LsmguardHookHOOK_MMAP_FILE: "lsm/mmap_file", bpf.LsmguardHookHOOK_FILE_MPROTECT: "lsm/file_mprotect",
	bpf.LsmguardHookHOOK_PATH_MKNOD: "lsm/path_mknod", bpf.LsmguardHookHOOK_PATH_MKDIR: "lsm/path_mkdir", bpf.LsmguardHookHOOK_PATH_SYMLINK: "lsm/path_symlink",
	bpf.LsmguardHookHOOK_PATH_LINK: "lsm/path_link", bpf.LsmguardHookHOOK_PATH_RENAME: "lsm/path_rename", bpf.LsmguardHookHOOK_PATH_UNLINK: "lsm/path_unlink",
	bpf.LsmguardHookHOOK_PATH_RMDIR: "lsm/path_rmdir", bpf.LsmguardHookHOOK_PATH_CHMOD: "lsm/path_chmod", bpf.LsmguardHookHOOK_PATH_CHOWN: "lsm/path_chown",
	bpf.LsmguardHookHOOK_PATH_TRUNCATE: "lsm/path_truncate", bpf.LsmguardHookHOOK_PATH_CHROOT: "lsm/path_chroot", bpf.LsmguardHookHOOK_INODE_SETATTR: "lsm/inode_setattr",
	bpf.LsmguardHookHOOK_INODE_SETXATTR: "lsm/inode_setxattr", bpf.LsmguardHookHOOK_INODE_REMOVEXATTR: "lsm/inode_removexattr",
	bpf.LsmguardHookHOOK_INODE_SET_ACL: "lsm/inode_set_acl", bpf.LsmguardHookHOOK_INODE_REMOVE_ACL: "lsm/inode_remove_acl",
	bpf.LsmguardHookHOOK_ANON_INODE: "lsm/inode_init_security_anon", bpf.LsmguardHookHOOK_BPRM_CHECK: "lsm/bprm_check_security",
	bpf.LsmguardHookHOOK_UNIX_CONNECT: "lsm/unix_stream_connect", bpf.LsmguardHookHOOK_UNIX_SEND: "lsm/unix_may_send", bpf.LsmguardHookHOOK_TASK_KILL: "lsm/task_kill",
	bpf.LsmguardHookHOOK_PTRACE: "lsm/ptrace_access_check", bpf.LsmguardHookHOOK_TASK_SCHEDULE: "lsm/task_setscheduler", bpf.LsmguardHookHOOK_TASK_ALLOC: "lsm/task_alloc",
	bpf.LsmguardHookHOOK_CAPABLE: "lsm/capable", bpf.LsmguardHookHOOK_SB_MOUNT: "lsm/sb_mount", bpf.LsmguardHookHOOK_MOVE_MOUNT: "lsm/move_mount",
	bpf.LsmguardHookHOOK_SB_UMOUNT: "lsm/sb_umount", bpf.LsmguardHookHOOK_PIVOTROOT: "lsm/sb_pivotroot", bpf.LsmguardHookHOOK_USERNS: "lsm/userns_create",
	bpf.LsmguardHookHOOK_BPF: "lsm/bpf", bpf.LsmguardHookHOOK_PERF: "lsm/perf_event_open", bpf.LsmguardHookHOOK_KEY: "lsm/key_permission",
	bpf.LsmguardHookHOOK_KERNEL_READ: "lsm/kernel_read_file", bpf.LsmguardHookHOOK_URING: "lsm/uring_sqpoll",
}
