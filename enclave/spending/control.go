package spending

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/journal"
)

// Names in the state folder.
const (
	ControlFile = "cost_control.cose"
	FloorFile   = "cost_control.version" // the highest version ever installed, in decimal
)

// ErrVersion: a cost control that is not newer than the one before.
var ErrVersion = errors.New("versions of cost controls only go upwards")

// force is a cost control in force and what follows from it. It is immutable.
type force struct {
	control *cost.Control
	signed  []byte
	rates   map[model]priced
}

type model struct{ provider, name string }

type priced struct {
	rates *prices.Rates
	list  journal.Hash // that the rates are from
}

// enforce works out what models cost under a cost control: by its own prices where a provider has any, else by the list that ships.
func (s *Spending) enforce(c *cost.Control, signed []byte) *force {
	f := &force{control: c, signed: signed, rates: map[model]priced{}}
	for name, p := range c.Providers {
		for of, r := range p.Models {
			f.rates[model{name, of}] = priced{&r, c.Hash()}
		}
		if p.Models != nil {
			continue
		}
		for i := range s.list.Models {
			if m := &s.list.Models[i]; m.Provider == string(p.Kind) {
				f.rates[model{name, m.Name}] = priced{&m.Rates, s.list.Hash}
			}
		}
	}
	return f
}

// Control is the cost control in force; the error says why there is none.
func (s *Spending) Control() (*cost.Control, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.force == nil {
		return nil, s.missing
	}
	return s.force.control, nil
}

// Signed is the file in force as it was signed; nil: there is none.
func (s *Spending) Signed() []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.force == nil {
		return nil
	}
	return s.force.signed
}

// Floor is the highest version of a cost control that was ever in force.
func (s *Spending) Floor() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.floor
}

// Providers are those of the cost control in force, by name. The map must not be changed.
func (s *Spending) Providers() map[string]cost.Provider {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.force == nil {
		return nil
	}
	return s.force.control.Providers
}

// Rates finds what a model of a provider costs, and the hash of the list that says so. ok is false for one that may not be called. The rates must
// not be changed.
func (s *Spending) Rates(provider, name string) (rates *prices.Rates, list journal.Hash, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.force == nil {
		return nil, journal.Hash{}, false
	}
	p, ok := s.force.rates[model{provider, name}]
	return p.rates, p.list, ok
}

// read finds the installed cost control.
func (s *Spending) read() {
	s.missing = ledger.ErrNoControl
	floor, err := readFloor(filepath.Join(s.opts.State, FloorFile))
	if err != nil {
		s.missing, s.floor = err, ^uint64(0)
		return
	}
	s.floor = floor
	signed, err := statefile.Read(filepath.Join(s.opts.State, ControlFile), cost.MaxFile)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var c *cost.Control
	if err == nil {
		c, err = cost.Open(signed, s.opts.OperatorKeys)
	}
	if err == nil && c.Version < floor {
		err = fmt.Errorf("%w: it is version %d, version %d was installed before: the state folder was set back", ErrVersion, c.Version, floor)
	}
	if err != nil {
		s.missing = fmt.Errorf("%w: installed cost control: %w: install the newest again", ledger.ErrNoControl, err)
		s.opts.Log.Error("nothing may be spent", "reason", s.missing)
		return
	}
	s.force, s.floor = s.enforce(c, signed), c.Version
}

func readFloor(path string) (uint64, error) {
	text, err := statefile.Read(path, 32)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ledger.ErrNoControl, err)
	}
	floor, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %s is not a number: write the version of the last installed cost control into it, and restart", ledger.ErrNoControl, path)
	}
	return floor, nil
}

// InstallControl verifies a signed cost control, makes it durable, puts it on record and in force. Installing the one that is in force again
// changes nothing.
func (s *Spending) InstallControl(ctx context.Context, signed []byte) (*cost.Control, error) {
	c, err := cost.Open(signed, s.opts.OperatorKeys)
	if err != nil {
		return nil, err
	}
	if s.ledger.Unread() { // the journal may tell of a newer one
		return nil, ledger.ErrUnread
	}
	s.installing.Lock()
	defer s.installing.Unlock()
	s.mu.RLock()
	current, floor := s.force, s.floor
	s.mu.RUnlock()
	if current != nil && c.Hash() == current.control.Hash() {
		return current.control, nil
	}
	// The version at the floor may come again only while none is in force: then an earlier installation stopped halfway.
	if c.Version < floor || current != nil && c.Version <= current.control.Version {
		return nil, fmt.Errorf("%w: it is version %d, the last one was %d: raise its version", ErrVersion, c.Version, floor)
	}
	entry, err := ControlEntry(c, s.opts.Now())
	if err != nil {
		return nil, err
	}
	if err := s.keep(c, signed); err != nil {
		return nil, fmt.Errorf("install cost control: %w", err)
	}
	s.ledger.NoteControl(c.Version)
	if err := s.opts.Record(ctx, entry); err != nil {
		return nil, fmt.Errorf("install cost control: stored, not yet in force: %w: install it again", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.force, s.missing, s.floor = s.enforce(c, signed), nil, c.Version
	s.ledger.SetControl(c)
	s.notify()
	return c, nil
}

func (s *Spending) keep(c *cost.Control, signed []byte) error {
	if err := statefile.Write(s.opts.State, ControlFile, signed); err != nil {
		return err
	}
	return statefile.Write(s.opts.State, FloorFile, []byte(strconv.FormatUint(c.Version, 10)+"\n"))
}
