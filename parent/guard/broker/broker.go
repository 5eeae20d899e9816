// Package broker serves the seccomp notifications of one agent, in its warden. For each notified system call it finds out
// which object the call means, decides it by the permit, and answers in one of three ways:
//
//   - it refuses, and reports a verdict;
//   - where Landlock (package floor) already allows the access, it lets the call go on in the kernel: the floor bounds what a
//     racing thread could make of the call's arguments meanwhile;
//   - beyond the floor it performs the call itself on the very object that it decided on, and injects the result. It never
//     performs and continues: no call is done twice, and none is decided on memory that is read again.
//
// It runs as the agent's user and without capabilities, so that it is no deputy worth confusing: it can open nothing that the
// agent's user could not. An agent cannot change its identity (it has no capabilities and no way to gain any), so files that
// the broker makes belong to whom they would have belonged to; only the umask is looked up.
//
// Objects of /proc, /sys and device files are never injected: the opener's identity stays with such a file. They are
// decided, and then it is the kernel that opens them.
package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/parent/relay"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// maxWorkers bounds the threads that can wait in slow file systems at once. Normally there is one.
const maxWorkers = 16

// slow is how long a worker may be busy with one call before another one takes over the notifications. Where none was lately, it is
// looked less and less often, down to each rarely: each look costs the processor as much as several decisions.
const (
	slow   = 10 * time.Millisecond
	rarely = 8 * slow
)

// Options of a broker.
type Options struct {
	Listener int             // the notification descriptor; the broker owns it
	Permit   *policy.Policy  // resolved (floor.Resolved)
	Coverage *floor.Coverage // what Landlock allows anyway

	// Closed are paths that no agent may open, and Sealed those that none may write, as in floor.Options.
	Closed, Sealed []string
	// Devices are further device files that are granted, as in floor.Options.
	Devices []string
	// VisaPath is the file whose opening yields the current visa; empty: none.
	VisaPath string
	// Visa returns the current visa.
	Visa func() []byte
	// AgentSocket is the unix socket that an agent may always connect to; empty: none.
	AgentSocket string
	// Signals says that Landlock does not keep signals inside the agent.
	Signals bool
	// Relay is asked for what Yama keeps from the warden; nil: it is refused. Relayed says that Yama does from the start.
	Relay   *relay.Client
	Relayed bool
	// Cgroup is the path of the agent's cgroup as /proc/<pid>/cgroup shows it; empty: only a process's own files in /proc
	// count as the agent's.
	Cgroup string

	// Report gets each verdict, folded: equal ones within a second after the first are one with a count. It may be called from
	// several threads and must not block for long. Time, PID, Comm, Decision, Layer, Operation, Target, Rule, Errno, Count and
	// AsPassed are set.
	Report func(journal.Verdict)
	// Observe gets, in mode audit, everything that would be refused, not folded; nil: nothing. It is called from several threads.
	Observe func(trace.Entry)
	// Count gets the operations in mode permissive, instead of Report.
	Count func(operation string)
	// Ask is told of each new question for a person (approval.go), and Withdraw of one that nobody waits for any more. They must not
	// block. Without Ask, what needs a person is refused.
	Ask      func(Question)
	Withdraw func(id uint64)
	// Kill ends the agent, for on_violation: kill. The refused call, of task pid, is never answered.
	Kill func(pid int)
}

// Broker serves the notifications of one agent.
type Broker struct {
	options Options
	calls   callsByNumber
	rules   atomic.Pointer[ruling]
	fold    *fold
	// approvals are the calls that wait for a person.
	approvals *approvals

	truncationHeld bool // by Landlock

	relayed  atomic.Bool // Yama keeps the warden from its agent, and raypherd is asked
	memories *memories   // nil: there is no relay
	sums     sums

	received atomic.Uint64 // notifications so far
	watching atomic.Bool

	pairs sync.Mutex // held while something is linked or renamed

	mutex   sync.Mutex
	workers int
	idle    int
	fatal   chan error
}

// New prepares a broker. It reads the kernel's sizes of the notification structures and fails where they are not the ones
// that it knows.
func New(o Options) (*Broker, error) {
	if err := checkSizes(); err != nil {
		return nil, err
	}
	// One thread's wake-up is handed to the other at once: a quarter of the cost on an idle machine. Linux 6.6 and later.
	setSyncWakeUp(o.Listener)
	b := &Broker{options: o, fold: newFold(o.Report), fatal: make(chan error, maxWorkers), truncationHeld: floor.TruncationHeld()}
	b.approvals = newApprovals()
	b.calls = callTable(o.Permit)
	b.rules.Store(newRuling(o.Permit, false))
	if o.Relay != nil {
		b.memories = newMemories(o.Relay, o.Permit.Filesystem != nil)
		b.relayed.Store(o.Relayed)
	}
	return b, nil
}

// Replace puts another permit in force, which lies within the first one. When it is narrower than the first, nothing continues
// on the floor's account any more: what is granted is opened by the broker, and what cannot be injected is refused.
func (b *Broker) Replace(permit *policy.Policy, narrower bool) {
	b.rules.Store(newRuling(permit, narrower))
}

// Serve answers notifications until the agent's last task is gone, which is no error, or until ctx ends. Any other error is
// fatal: the caller must end its process, because calls that were received and not answered would wait for ever.
func (b *Broker) Serve(ctx context.Context) error {
	gone := make(chan error, 1)
	go func() { gone <- waitForHangUp(b.options.Listener) }()
	b.startWorker()
	defer b.fold.close()
	select {
	case err := <-gone:
		return err
	case err := <-b.fatal:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Blocked is how many calls were refused so far.
func (b *Broker) Blocked() uint64 {
	b.fold.mutex.Lock()
	defer b.fold.mutex.Unlock()
	return b.fold.blocked
}

// Over reports whether no task is under the filter any more.
func (b *Broker) Over() bool { return hungUp(b.options.Listener) }

// startWorker starts a worker unless one is waiting or there are too many.
func (b *Broker) startWorker() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.idle > 0 || b.workers >= maxWorkers {
		return
	}
	b.workers++
	b.idle++
	go func() {
		if err := newWorker(b).run(); err != nil {
			b.fatal <- err
		}
	}()
}

// busy and waiting keep the number of workers that wait for a notification. A worker that comes back and finds another one
// waiting is not needed any more.
func (b *Broker) busy() {
	b.mutex.Lock()
	b.idle--
	b.mutex.Unlock()
	b.received.Add(1)
	if !b.watching.Load() && b.watching.CompareAndSwap(false, true) {
		go b.watch()
	}
}

// watch starts another worker when the ones there are do not come back in time. It ends when nothing happens any more, so that
// an idle agent costs nothing, and a busy one no timer for each call.
func (b *Broker) watch() {
	pause := slow
	for quiet := 0; quiet < 10; {
		before := b.received.Load()
		time.Sleep(pause)
		b.mutex.Lock()
		busy := b.idle == 0
		b.mutex.Unlock()
		again := b.received.Load() != before
		if busy && !again {
			b.startWorker()
		}
		switch {
		case busy:
			quiet, pause = 0, slow
		case again:
			quiet, pause = 0, min(2*pause, rarely)
		default:
			quiet++
		}
	}
	b.endWatch()
}

// endWatch begins a new watch for a worker that became busy when this one had looked for the last time, and found it still watching.
func (b *Broker) endWatch() {
	b.watching.Store(false)
	b.mutex.Lock()
	stuck := b.idle == 0
	b.mutex.Unlock()
	if stuck && b.watching.CompareAndSwap(false, true) {
		go b.watch()
	}
}

func (b *Broker) waiting() (needed bool) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.idle > 0 {
		b.workers--
		return false
	}
	b.idle++
	return true
}

// worker is one thread that receives and answers notifications.
type worker struct {
	*Broker
	link  [4096]byte // room for the path of an object
	bytes [4096]byte // room for the target's memory
	name  [4097]byte // room for a path that is passed to the kernel

	// Arguments of calls, here so that none is allocated.
	local  unix.Iovec
	remote unix.RemoteIovec
	how    unix.OpenHow

	away bool // raypherd did not answer while the call was decided

	// Of the call that is being decided: what a person agreed to, and what is to be asked next.
	granted    []matter
	unanswered matter
	asks       event
}

func newWorker(b *Broker) *worker {
	return &worker{Broker: b}
}

// run serves until it is not needed any more. Its thread has an umask of its own and takes no signals: a signal that
// interrupts an injection would give the target success without a descriptor. It is never returned to the scheduler.
func (w *worker) run() error {
	if err := w.ownThread(); err != nil {
		return err
	}
	for {
		var n notification
		err := receive(w.options.Listener, &n)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOENT): // the target died while it was waiting, or all are gone
			if hungUp(w.options.Listener) {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("receive a notification: %w", err)
		}
		w.busy()
		w.send(&n, w.answer(&n))
		if !w.waiting() {
			return nil
		}
	}
}

// ownThread gives the worker its thread.
func (w *worker) ownThread() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("give the worker its own umask: %w", err)
	}
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, nil); err != nil {
		return fmt.Errorf("mask signals: %w", err)
	}
	unix.Umask(0)
	return nil
}

// answer decides a notification.
func (w *worker) answer(n *notification) answer {
	c := w.calls.of(n.Number)
	switch {
	case n.Arch != nativeArch():
		c = &call{name: "i386", refuse: unix.ENOSYS}
	case c == nil:
		c = &call{name: fmt.Sprintf("call %d", n.Number), refuse: unix.ENOSYS}
	}
	r := w.rules.Load()
	if c.log {
		w.note(n, r, journal.Log, event{operation: "syscall", target: c.name})
	}
	errno := c.refuse
	if errno != 0 && c.partly != nil {
		var refused bool
		if errno, refused = c.partly(n.Args); !refused {
			return goOn
		}
	}
	if errno != 0 {
		layer, operation, target := "seccomp", "syscall", c.name
		if c.describe != nil {
			operation, target = c.describe(n)
		}
		return w.refuse(n, r, event{operation: operation, target: target, rule: c.rule, errno: errno, layer: layer})
	}
	if c.handle == nil {
		return goOn
	}
	return w.decided(n, r, c, nil)
}

// unseen answers a call that nobody could look at. It is not the agent's fault, so on_violation has no part in it.
func (w *worker) unseen(n *notification, r *ruling, c *call) answer {
	e := event{operation: "syscall", target: c.name, rule: ruleAway, errno: unix.EACCES}
	if r.lenient {
		w.note(n, r, journal.WouldBlock, e)
		return goOn
	}
	w.note(n, r, journal.Block, e)
	return fail(e.errno)
}
