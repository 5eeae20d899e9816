package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/guard/lsm"
)

// attachFiles loads the file guard where the kernel takes it. Which backend that leaves is said at the start.
func (d *daemon) attachFiles() error {
	pins := filepath.Join(d.options.Paths.Pins, "files")
	held := attached(pins)
	if d.options.Backend == agents.Broker {
		return d.releaseFiles(pins, held)
	}
	// Loading takes the verifier longer than a run's start may take, and a private raypherd would do it for each run.
	if d.options.Paths.Private && d.options.Backend != agents.LSM {
		return nil
	}
	files, err := lsm.Load(lsm.Options{CgroupPath: d.cgroups.Path(), PinDir: pins})
	switch {
	case err == nil:
	case d.options.Backend == agents.LSM:
		return fmt.Errorf("--backend lsm: %w", err)
	default:
		d.log.Info("the broker holds files and programs: programs of BPF LSM cannot", "reason", err)
		return d.releaseFiles(pins, held)
	}
	d.files = files
	d.notes = slices.Concat(d.notes, files.Notes())
	d.later(files.Close)
	return nil
}

// releaseFiles takes the file guard of an earlier raypherd off, which gives nothing to agents that nobody arms in it. held: it was attached
// when this one started; then agents that run must not lose it.
func (d *daemon) releaseFiles(pins string, held bool) error {
	lives := false
	if held {
		var err error
		if lives, err = inhabited(d.cgroups); err != nil {
			return err
		}
		lives = lives || len(d.guard.Attached()) > 0
	}
	return releasePins(pins, lives)
}

func releasePins(pins string, lives bool) error {
	if lives {
		return errors.New("programs of BPF LSM that an earlier raypherd attached hold agents which still run: start with --backend lsm, or end those agents first")
	}
	if err := os.RemoveAll(pins); err != nil {
		return fmt.Errorf("file guard of an earlier raypherd: take it off: %w", err)
	}
	return nil
}

// attached reports whether the file guard's programs are pinned in a folder: then they are attached, whoever did it.
func attached(pins string) bool {
	links, _ := filepath.Glob(filepath.Join(pins, "link_*")) // the one error is of a bad pattern
	return len(links) > 0
}

// backend is what holds files and programs, where an agent's rules let it.
func (d *daemon) backend() string {
	if d.files != nil {
		return agents.LSM
	}
	return agents.Broker
}

// leaveNothing takes pins and cgroup away where no agent needs them any more. One that ended while raypherd did may still have its
// folder, empty.
func (d *daemon) leaveNothing() error {
	lives, err := inhabited(d.cgroups)
	if err != nil || lives || len(d.guard.Attached()) > 0 {
		return err
	}
	if d.files != nil {
		err = d.files.Unpin()
	}
	return errors.Join(err, d.guard.Unpin(), d.cgroups.Remove())
}

// inhabited says whether a process lives in any agent.
func inhabited(p *cgroup.Parent) (bool, error) {
	names, err := p.Agents()
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if group, err := p.Find(name); err == nil && group.Populated() {
			return true, nil
		}
	}
	return false, nil
}
