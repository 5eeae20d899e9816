package broker

import (
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/relay"
)

// Where Yama keeps the warden from its agent's processes, raypherd hands it descriptors of their memory (package relay). A
// descriptor is of the address space that a task had when it was opened, for good. It is kept for the thread group, so that
// raypherd need not be asked at each call. So it must be known when it is not the group's any more:
//
//   - The group has ended and its number is another's: a pidfd tells.
//   - The task is in another group than it was, because its number was given away: tgkill with signal 0 tells.
//   - The group has executed another program. Every exec is notified, so its descriptor is dropped then, and what is opened until
//     that exec is known to be over serves one call only. Reading alone would not tell: a child of vfork leaves its parent's
//     address space, which lives on and can be read.
//
// Where execs are not notified (no rules for files), nothing is kept.
//
// None of this is what makes an agent safe to guard: the memory of its processes is its own and may change at any time, which
// is why the broker acts on what it read, and never on what may be there later.

// Bounds of what is kept. Beyond them descriptors serve one call only.
const (
	maxGroups  = 128 // two descriptors each
	maxThreads = 4096
)

// memories are the descriptors of one agent's memory. Their methods may be called from several goroutines.
type memories struct {
	relay *relay.Client
	keep  bool // execs are notified

	mutex   sync.Mutex
	groups  map[int]*group
	threads map[int]int // the thread group of a task
}

// group is one thread group. It is guarded by memories.mutex.
type group struct {
	number    int
	pidfd     int
	memory    *memory // nil: none is kept
	executing []int   // tasks whose exec is not known to be over
}

// memory is one descriptor of an address space. It is closed when nobody keeps or uses it any more; holders is guarded by
// memories.mutex.
type memory struct {
	fd      int
	holders int
}

func newMemories(r *relay.Client, keep bool) *memories {
	return &memories{relay: r, keep: keep, groups: map[int]*group{}, threads: map[int]int{}}
}

// read reads the memory of the task that waits with a notification. What it returns counts only while that is valid.
func (m *memories) read(w *worker, n *notification, address uint64, b []byte) (int, error) {
	if int64(address) < 0 {
		return 0, unix.EFAULT // no user space there; to the kernel it would be a negative offset
	}
	memory, err := m.of(w, n)
	if err != nil {
		return 0, err
	}
	defer m.release(memory)
	for {
		got, err := unix.Pread(memory.fd, b, int64(address))
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EIO: // fs/proc/base.c, mem_rw: nothing is mapped there
			return 0, unix.EFAULT
		case err == nil && got == 0: // the address space is gone, and the task with it
			return 0, unix.EINTR
		}
		return got, err
	}
}

// of returns the memory of the task that waits with a notification. The caller releases it.
func (m *memories) of(w *worker, n *notification) (*memory, error) {
	task := int(n.PID)
	number, err := m.groupOf(task)
	if err != nil {
		return nil, unix.EINTR
	}
	m.mutex.Lock()
	g := m.add(number)
	if g != nil {
		g.forgetOver(task)
		if g.memory != nil {
			g.memory.holders++
			defer m.mutex.Unlock()
			return g.memory, nil
		}
	}
	m.mutex.Unlock()
	fd, err := m.relay.Memory(task)
	// The task waits: so it waited all the time, and what was opened is its own, the group's pidfd too.
	if err == nil && !w.valid(n) {
		unix.Close(fd)
		err = unix.EINTR
	}
	if err != nil {
		return nil, err
	}
	opened := &memory{fd: fd, holders: 1}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	// An exec that another task began meanwhile stands in the group. One that was over has not ended this task, so it failed.
	if g != nil && m.groups[number] == g && g.memory == nil && len(g.executing) == 0 {
		g.memory = opened
		opened.holders++
	}
	return opened, nil
}

// release lets go of a memory that `of` returned.
func (m *memories) release(one *memory) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	one.release()
}

func (one *memory) release() {
	if one.holders--; one.holders == 0 {
		unix.Close(one.fd)
	}
}

// groupOf is the thread group of a task that waits: its number.
func (m *memories) groupOf(task int) (int, error) {
	m.mutex.Lock()
	number, known := m.threads[task]
	m.mutex.Unlock()
	if known && unix.Tgkill(number, task, 0) != unix.ESRCH {
		return number, nil
	}
	s, err := readStatus(uint32(task))
	if err != nil {
		return 0, err
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if len(m.threads) >= maxThreads {
		clear(m.threads)
	}
	m.threads[task] = s.group
	return s.group, nil
}

// known returns the group that has this number now, nil if nothing is kept of it. The mutex is held.
func (m *memories) known(number int) *group {
	g := m.groups[number]
	if g != nil && g.ended() {
		m.forget(g)
		return nil
	}
	return g
}

// add returns the group that has this number now, nil if nothing can be kept of it. The mutex is held.
func (m *memories) add(number int) *group {
	if !m.keep {
		return nil
	}
	if g := m.known(number); g != nil {
		return g
	}
	if len(m.groups) >= maxGroups {
		m.makeRoom()
	}
	pidfd, err := unix.PidfdOpen(number, 0)
	if err != nil || len(m.groups) >= maxGroups {
		if err == nil {
			unix.Close(pidfd)
		}
		return nil
	}
	g := &group{number: number, pidfd: pidfd}
	m.groups[number] = g
	return g
}

// makeRoom forgets groups that have ended, or else one of which nothing must be remembered. The mutex is held.
func (m *memories) makeRoom() {
	var one *group
	for _, g := range m.groups {
		switch {
		case g.ended():
			m.forget(g)
		case len(g.executing) == 0:
			one = g
		}
	}
	if one != nil && len(m.groups) >= maxGroups {
		m.forget(one)
	}
}

// forget drops all that is kept of a group. The mutex is held.
func (m *memories) forget(g *group) {
	g.drop()
	unix.Close(g.pidfd)
	delete(m.groups, g.number)
}

// executes is called while the task waits to execute another program, before that goes on.
func (m *memories) executes(n *notification) {
	number, err := m.groupOf(int(n.PID))
	if err != nil {
		return // it has ended
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	g := m.add(number)
	if g == nil {
		m.keep = false // more programs begin at once than can be remembered: from now on nothing is kept
		for _, g := range m.groups {
			m.forget(g)
		}
		return
	}
	g.drop()
	if !slices.Contains(g.executing, int(n.PID)) {
		g.executing = append(g.executing, int(n.PID))
	}
}

// ended reports whether the group's last task is gone.
func (g *group) ended() bool {
	polled := []unix.PollFd{{Fd: int32(g.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(polled, 0)
	return err == nil && n > 0
}

func (g *group) drop() {
	if g.memory != nil {
		g.memory.release()
		g.memory = nil
	}
}

// forgetOver takes execs that are over off the list, when a task of the group is heard of. Who is heard of has come back from
// its own. A task that has gone, and was not the first of its group, is the group's only one by now, under the first one's
// number, or was ended: after an exec the task that is heard of is the new program's.
func (g *group) forgetOver(task int) {
	g.executing = slices.DeleteFunc(g.executing, func(one int) bool {
		return one == task || one != g.number && errors.Is(unix.Tgkill(g.number, one, 0), unix.ESRCH)
	})
}
