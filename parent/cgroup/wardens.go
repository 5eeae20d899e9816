package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ofWardens follows the name of an instance in that of its wardens' folder. An instance has no dot in its name.
const ofWardens = ".wardens"

// A warden connects sockets for its agent, and its credentials are then those of the other end. So every raypherd on the host
// must be able to tell a warden from an operator, also one of an instance that it knows nothing of. The kernel vouches for it
// by the cgroup: root alone can put a process there, and its user cannot take it out.

// lastWarden is how long Remove waits for the wardens of agents that have just ended.
const lastWarden = 2 * time.Second

// AddWarden moves a process with all its threads to the wardens.
func (p *Parent) AddWarden(pid int) error {
	if err := write(filepath.Join(p.wardens, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("moving process %d to the wardens: %w", pid, err)
	}
	return nil
}

// IsWarden says whether a process was moved to the wardens of this raypherd. The caller holds it by a pidfd, as for Contains.
func (p *Parent) IsWarden(pid int) (bool, error) {
	path, err := Of(pid)
	if err != nil {
		return false, err
	}
	own := filepath.Join(p.mounts.UnifiedRoot, p.name+ofWardens)
	return path == own || strings.HasPrefix(path, own+"/"), nil
}

// removeWardens removes the wardens' folder.
func (p *Parent) removeWardens() error {
	var err error
	for end := time.Now().Add(lastWarden); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = unix.Rmdir(p.wardens); err != unix.EBUSY {
			break
		}
	}
	if err == unix.EBUSY {
		if killed := write(filepath.Join(p.wardens, "cgroup.kill"), "1"); killed != nil && !errors.Is(killed, fs.ErrNotExist) {
			return fmt.Errorf("ending the wardens: %w", killed)
		}
		return removeTree(p.wardens)
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("removing cgroup %s: %w", p.wardens, err)
	}
	return nil
}
