package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/raypher/raypher/cmd/internal/start"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/instance"
)

// journalFlags say which journals of this host are meant: those of a state folder, the daemon's and every private run's.
type journalFlags struct {
	state string
	run   string
}

func (f *journalFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.state, "state-dir", "", "state folder of raypherd (default "+instance.DefaultState+")")
	flags.StringVar(&f.run, "run", "", "only the journal of the private run with this ID")
}

// named says whether the user chose a place, which is then read and not asked for over the daemon's socket.
func (f *journalFlags) named() bool { return f.state != "" || f.run != "" }

// onDisk says whether the journals are read and not asked for: root reads the host's. Those of a raypherd elsewhere
// (RAYPHER_RUN_DIR) lie in a state folder that only this raypherd knows.
func (f *journalFlags) onDisk() bool { return f.named() || os.Geteuid() == 0 && !elsewhere() }

// elsewhere says whether the daemon to talk to is another one than the host's.
func elsewhere() bool {
	run := os.Getenv(instance.RunVariable)
	return run != "" && filepath.Clean(run) != instance.DefaultRun
}

// storedJournal is one open journal and its folder.
type storedJournal struct {
	dir string
	*audit.Store
}

// open opens the journals for reading; a daemon may be writing. No journal at all is an error that says where it looked.
func (f *journalFlags) open() ([]storedJournal, error) {
	if !f.named() {
		if err := start.Outside(); err != nil {
			return nil, err
		}
		if elsewhere() {
			return nil, fmt.Errorf("journals of the raypherd at %s: its state folder is not known: name it with --state-dir", os.Getenv(instance.RunVariable))
		}
	}
	dirs, err := f.folders()
	if err != nil {
		return nil, err
	}
	var stores []storedJournal
	for _, dir := range dirs {
		store, err := audit.OpenReadOnly(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		stores = append(stores, storedJournal{dir, store})
	}
	if len(stores) == 0 {
		return nil, fmt.Errorf("no journal: looked for %s: name the state folder with --state-dir", strings.Join(dirs, ", "))
	}
	return stores, nil
}

func (f *journalFlags) folders() ([]string, error) {
	state := f.state
	if state == "" {
		state = instance.DefaultState
	}
	state, err := filepath.Abs(state)
	if err != nil {
		return nil, err
	}
	if f.run != "" {
		paths, err := instance.PrivateIn(instance.DefaultRun, state, f.run)
		if err != nil {
			return nil, err
		}
		return []string{paths.Journal}, nil
	}
	paths, err := instance.At("", state)
	if err != nil {
		return nil, err
	}
	dirs := []string{paths.Journal}
	runs, err := os.ReadDir(filepath.Join(state, "runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("journals of private runs: %w: run as root, or name a state folder that you can read with --state-dir", err)
	}
	for _, run := range runs {
		if paths, err := instance.PrivateIn(instance.DefaultRun, state, run.Name()); err == nil {
			dirs = append(dirs, paths.Journal)
		}
	}
	return dirs, nil
}

// entryName names one entry: its epoch, or the beginning of it in hexadecimal, and its index. An empty epoch means the newest
// of the only journal.
type entryName struct {
	epoch string
	index uint64
}

// parseEntryName reads INDEX, EPOCH:INDEX or EPOCH/INDEX.
func parseEntryName(text string) (entryName, error) {
	var n entryName
	number := text
	if at := strings.LastIndexAny(text, ":/"); at >= 0 {
		n.epoch, number = text[:at], text[at+1:]
		if _, err := hex.DecodeString(n.epoch + strings.Repeat("0", len(n.epoch)%2)); err != nil || n.epoch == "" || len(n.epoch) > 32 {
			return n, fmt.Errorf("entry %q: the epoch must be hexadecimal, as 'raypher evidence list' shows it", text)
		}
	}
	index, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return n, fmt.Errorf("entry %q: expected INDEX or EPOCH:INDEX, as 'raypher evidence list' shows them", text)
	}
	n.index = index
	return n, nil
}

// find returns the journal and the epoch that a name means.
func (n entryName) find(stores []storedJournal) (storedJournal, journal.EpochID, error) {
	if n.epoch == "" {
		if len(stores) > 1 {
			return storedJournal{}, journal.EpochID{}, fmt.Errorf("entry %d: this host has %d journals: name it EPOCH:INDEX, as 'raypher evidence list' shows it", n.index, len(stores))
		}
		epochs := stores[0].Epochs()
		if len(epochs) == 0 {
			return storedJournal{}, journal.EpochID{}, fmt.Errorf("entry %d: the journal is empty", n.index)
		}
		return stores[0], epochs[len(epochs)-1], nil
	}
	var found []journal.EpochID
	var in storedJournal
	for _, store := range stores {
		for _, epoch := range store.Epochs() {
			if strings.HasPrefix(epoch.String(), strings.ToLower(n.epoch)) {
				found, in = append(found, epoch), store
			}
		}
	}
	if len(found) == 1 {
		return in, found[0], nil
	}
	return in, journal.EpochID{}, fmt.Errorf("epoch %s: %d epochs of this host's journals begin so", n.epoch, len(found))
}

// keysOf returns the keys that sign the given epoch in a host's journals: what the host itself says, not a pinned key.
func keysOf(stores []storedJournal, epoch journal.EpochID) []*journal.Key {
	for _, store := range stores {
		if slices.Contains(store.Epochs(), epoch) {
			if key := store.EpochKey(epoch); key != nil {
				return []*journal.Key{key}
			}
		}
	}
	return nil
}
