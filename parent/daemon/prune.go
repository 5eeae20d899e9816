package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/raypher/raypher/parent/instance"
)

// Each private run leaves its journal, which proves what it was refused, and the log of its raypherd. Of those that nothing was
// written to for KeptFor, only the newest are kept; KeptRuns is how many, unless raypherd is told another number.
const (
	KeptRuns = 100
	KeptFor  = 30 * 24 * time.Hour

	// maxPruned bounds what one start of a raypherd removes: a run must not wait for it.
	maxPruned = 200
)

// privateRun is what a private run left.
type privateRun struct {
	state   string
	written time.Time // the last time that something of it was
}

// prune removes what old private runs left beside p, but for the newest ones and any that still runs.
func prune(p instance.Paths, keep int, now time.Time, log *slog.Logger) {
	runs, private := filepath.Join(p.State, "runs"), filepath.Join(p.Run, "private")
	if p.Private {
		runs, private = filepath.Dir(p.State), filepath.Dir(p.Run)
	}
	left, err := privateRuns(runs)
	if err != nil {
		log.Warn("old private runs are not looked for", "error", err)
		return
	}
	pruned := 0
	for _, run := range left[min(keep, len(left)):] {
		_, err := os.Lstat(filepath.Join(private, filepath.Base(run.state)))
		if now.Sub(run.written) < KeptFor || !errors.Is(err, fs.ErrNotExist) || run.state == p.State {
			continue
		}
		if pruned == maxPruned {
			break
		}
		if err := os.RemoveAll(run.state); err != nil {
			log.Warn("an old private run is not removed", "folder", run.state, "error", err)
			continue
		}
		pruned++
	}
	if pruned > 0 {
		log.Info("removed the journals of old private runs", "runs", pruned, "kept", len(left)-pruned, "older than", KeptFor)
	}
}

// privateRuns lists what private runs left in a folder, the newest first.
func privateRuns(folder string) ([]privateRun, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var left []privateRun
	for _, e := range entries {
		if !e.IsDir() || !instance.ValidID(e.Name()) {
			continue
		}
		state := filepath.Join(folder, e.Name())
		left = append(left, privateRun{state, lastWritten(state)})
	}
	slices.SortFunc(left, func(a, b privateRun) int { return b.written.Compare(a.written) })
	return left, nil
}

// lastWritten is the newest time in a run's folder and among its journals. What cannot be looked at counts as written now.
func lastWritten(state string) (newest time.Time) {
	journals, err := filepath.Glob(filepath.Join(state, "journal", "*"))
	if err != nil {
		return time.Now()
	}
	for _, path := range append(journals, state) {
		info, err := os.Lstat(path)
		if err != nil {
			return time.Now()
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest
}
