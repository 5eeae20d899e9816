package lease

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// Names in the state folder.
const (
	CounterFile = "lease.counter"
	lockFile    = "lease.lock"
)

const maxCounterFile = 256 // bytes

// Software is the anchor of the tier software: a file. It is no protection: whoever puts an old state folder back has set the
// count back, and a copy of the folder counts for itself. It holds against restarts and crashes of honest processes.
type Software struct {
	dir string
	id  [32]byte
}

type counterFile struct {
	Format  uint64   `cbor:"1,keyasint"`
	Random  [32]byte `cbor:"2,keyasint"` // drawn when the file was made
	Counter uint64   `cbor:"3,keyasint"`
	Version uint64   `cbor:"4,keyasint"`
}

// OpenSoftware finds the counter in a private state folder, or makes it.
func OpenSoftware(dir string) (*Software, error) {
	s := &Software{dir: dir}
	err := s.change(context.Background(), func(c *counterFile) (bool, error) {
		made := c.Format == 0
		if made {
			c.Format = 1
			rand.Read(c.Random[:]) // never fails (crypto/rand)
		}
		s.id = softwareID(c)
		return made, nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func softwareID(c *counterFile) [32]byte {
	return sha256.Sum256(append([]byte("raypher software lease counter 1\x00"), c.Random[:]...))
}

// ID implements Anchor.
func (s *Software) ID() [32]byte { return s.id }

// Tier implements Anchor.
func (s *Software) Tier() string { return journal.TierSoftware }

// Read implements Anchor.
func (s *Software) Read(ctx context.Context) (r Reading, err error) {
	err = s.change(ctx, func(c *counterFile) (bool, error) {
		r = Reading{c.Counter, c.Version}
		return false, s.same(c)
	})
	return r, err
}

// Take implements Anchor.
func (s *Software) Take(ctx context.Context) (counter uint64, err error) {
	err = s.change(ctx, func(c *counterFile) (bool, error) {
		c.Counter++
		counter = c.Counter
		return true, s.same(c)
	})
	return counter, err
}

// Raise implements Anchor.
func (s *Software) Raise(ctx context.Context, version uint64) error {
	return s.change(ctx, func(c *counterFile) (bool, error) {
		higher := version > c.Version
		if higher {
			c.Version = version
		}
		return higher, s.same(c)
	})
}

func (s *Software) same(c *counterFile) error {
	if softwareID(c) != s.id {
		return errors.New("another file took its place: start again")
	}
	return nil
}

// change runs f on what the file says, alone among all processes, and keeps what f made of it when f says so.
func (s *Software) change(_ context.Context, f func(*counterFile) (bool, error)) error {
	lock, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAnchor, err)
	}
	defer lock.Close() // ends the lock
	// A lock of the open file and not flock(2), which the enclave's sandbox has no use for otherwise.
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLKW, &whole); err != nil {
		return fmt.Errorf("%w: lock: %w", ErrAnchor, err)
	}
	var c counterFile
	path := filepath.Join(s.dir, CounterFile)
	text, err := statefile.Read(path, maxCounterFile)
	if err == nil {
		err = strictcbor.Decode(text, maxCounterFile, &c)
	}
	if err == nil && c.Format != 1 {
		err = fmt.Errorf("format %d", c.Format)
	}
	if err != nil && !(errors.Is(err, os.ErrNotExist) && s.id == [32]byte{}) {
		return fmt.Errorf("%w: %s: %w: restore it, or remove it and sign a new grant", ErrAnchor, path, err)
	}
	keep, err := f(&c)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrAnchor, path, err)
	}
	if !keep {
		return nil
	}
	if err := statefile.Write(s.dir, CounterFile, strictcbor.Encode(c)); err != nil {
		return fmt.Errorf("%w: %w", ErrAnchor, err)
	}
	return nil
}
