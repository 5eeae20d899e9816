package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/instance"
)

// hooks lists the programs that are attached, by the names of their pins.
func hooks(pins string) string {
	entries, err := os.ReadDir(pins)
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), "link_"); ok {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// sweep removes what private instances left that were killed: run folder, pins and cgroup, if no agent lives in it any more.
func sweep(p instance.Paths, log *slog.Logger) {
	folder := filepath.Join(p.Run, "private")
	if p.Private {
		folder = filepath.Dir(p.Run)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return // there were none
	}
	for _, e := range entries {
		id := e.Name()
		if !instance.ValidID(id) || filepath.Join(folder, id) == p.Run {
			continue
		}
		left, err := instance.PrivateIn(filepath.Dir(folder), p.State, id)
		if err == nil {
			err = sweepOne(left)
		}
		switch {
		case errors.Is(err, errRunning), errors.Is(err, errPopulated), errors.Is(err, errBegins):
		case err != nil:
			log.Warn("a private run left something behind", "run", id, "error", err)
		default:
			log.Info("removed what a private run left behind", "run", id)
		}
	}
}

var (
	errPopulated = errors.New("an agent still runs there")
	errBegins    = errors.New("it may just be starting")
)

// begins is how old a private instance without a lock must be to count as one that never came up.
const begins = time.Minute

func sweepOne(left instance.Paths) error {
	// A lock that names nobody was never held: its raypherd may be between making the folder and locking it.
	if pid, err := os.ReadFile(left.Lock); err != nil || len(pid) == 0 {
		if info, err := os.Stat(left.Run); err != nil || time.Since(info.ModTime()) < begins {
			return errBegins
		}
	}
	held, err := lock(left)
	if err != nil {
		return err
	}
	defer held.Close()
	cgroups, err := cgroup.Open(left.Cgroup)
	if err != nil {
		return err
	}
	defer cgroups.Close()
	lives, err := inhabited(cgroups)
	if err != nil {
		return err
	}
	if lives {
		return errPopulated
	}
	return errors.Join(cgroups.Remove(), removePins(left.Pins), os.RemoveAll(left.Run))
}

// removePins removes a folder of pins: with the last pin a program is detached.
func removePins(folder string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		return nil // nothing is pinned there
	}
	return os.RemoveAll(folder)
}
