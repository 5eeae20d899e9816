package warden

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// freezer stops the agent when its visa ends and lets it go on when it is renewed. It goes by CLOCK_BOOTTIME, which nobody can
// set and which counts while the machine sleeps. One goroutine (watch) reads the timer.
type freezer struct {
	control *os.File // cgroup.freeze; nil: this host has no cgroup to freeze
	timer   *os.File
}

// newFreezer opens what it needs while the agent has not started. cgroup is the agent's folder, empty for none.
func newFreezer(cgroup string) (*freezer, error) {
	f := &freezer{}
	if cgroup != "" {
		control, err := os.OpenFile(filepath.Join(cgroup, "cgroup.freeze"), os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("open the agent's freezer: %w", err)
		}
		f.control = control
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("timer for the visa's end: %w", err)
	}
	f.timer = os.NewFile(uintptr(fd), "visa timer")
	return f, nil
}

// until sets the end, in nanoseconds of CLOCK_BOOTTIME. 0: none.
func (f *freezer) until(deadline int64) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(deadline)}
	raw, err := f.timer.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	}); err != nil {
		return err
	}
	return set
}

// watch calls expired at each end, until close.
func (f *freezer) watch(expired func()) {
	var ticks [8]byte
	for {
		n, err := f.timer.Read(ticks[:])
		if err != nil {
			return
		}
		if n == len(ticks) && binary.LittleEndian.Uint64(ticks[:]) > 0 {
			expired()
		}
	}
}

// freeze stops every process of the agent, or lets them go on.
func (f *freezer) freeze(on bool) error {
	if f.control == nil {
		return nil
	}
	value := "0"
	if on {
		value = "1"
	}
	if _, err := f.control.WriteAt([]byte(value), 0); err != nil {
		return fmt.Errorf("freeze the agent: %w", err)
	}
	return nil
}

// empty reports whether no process is left in a cgroup, or the cgroup itself is gone. It is false where there is none.
func (f *freezer) empty(cgroup string) bool {
	if cgroup == "" {
		return false
	}
	raw, err := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || strings.Contains(string(raw), "populated 0")
}

func (f *freezer) close() {
	f.timer.Close()
	if f.control != nil {
		f.control.Close()
	}
}

// killAgent kills every process in a cgroup. A plain user may not write cgroup.kill: then the group is frozen, so that nothing
// is forked meanwhile, and killed one by one.
func (f *freezer) killAgent(cgroup string, pid int) error {
	if cgroup == "" {
		return unix.Kill(pid, unix.SIGKILL)
	}
	if os.WriteFile(filepath.Join(cgroup, "cgroup.kill"), []byte("1"), 0) == nil {
		return nil
	}
	freezeErr := f.freeze(true)
	for range 100 {
		raw, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
		if err != nil {
			return errors.Join(freezeErr, fmt.Errorf("kill the agent: %w", err))
		}
		lines := strings.Fields(string(raw))
		if len(lines) == 0 {
			return nil
		}
		for _, line := range lines {
			if one, err := strconv.Atoi(line); err == nil && one > 0 {
				_ = unix.Kill(one, unix.SIGKILL) // gone meanwhile, or in the next round
			}
		}
		time.Sleep(time.Millisecond)
	}
	return errors.Join(freezeErr, errors.New("kill the agent: some of it is left"))
}
