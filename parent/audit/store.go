// Package audit is the parent's durable copy of the enclave's journal: one append-only file per epoch in a folder that only
// root can read. raypherd writes it through the Persist stream, one Append for each batch, and acknowledges after it
// returned. Readers iterate, prove single entries and export evidence; with [OpenReadOnly] also while a daemon writes.
//
// What it promises: once Append has returned, kill -9 or a power failure at any moment loses nothing of the batch; a torn
// end is set aside and reported, an altered middle is refused with the number of the entry. What it does not: whoever is
// root here can cut whole epochs off the end, and a last batch of which whole sectors read as zeros passes for torn. The journal is
// trusted for what its signed heads prove, not for where it lies.
//
// Opening reads and hashes every entry and compares the tree with every head (320,000 verdicts under 10,000 heads: about a
// second). The signature is checked on the last head of each epoch, which covers all entries before it; Verify checks all
// of them.
package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Errors that callers tell apart.
var (
	ErrLocked   = errors.New("another process writes this journal")
	ErrReadOnly = errors.New("the journal was opened for reading")
	ErrNotFound = errors.New("no such entry in the journal")
	ErrBatch    = errors.New("the batch does not continue the journal")
	ErrFailed   = errors.New("the journal can no longer be written; restart after mending the disk")
)

// AlteredError says that the store holds something else than what was written to it.
type AlteredError struct {
	File   string
	Epoch  journal.EpochID
	Entry  uint64 // the first entry that cannot be relied upon
	Reason string
}

func (e *AlteredError) Error() string {
	return fmt.Sprintf("%s: entry %d of epoch %s is not what was written: %s: restore the file from a copy", e.File, e.Entry, e.Epoch, e.Reason)
}

// Recovery tells of a torn end that was set aside: bytes that were being written when the machine or the process ended,
// and that nobody had been promised.
type Recovery struct {
	File    string
	Bytes   int64  // set aside
	SavedAs string // where they are now; empty when opened for reading
	Entries uint64 // of that epoch that are there
}

// Store is an open journal. It is safe for concurrent use.
type Store struct {
	dir       string
	lock      *os.File // nil: read only
	recovered []Recovery

	writing sync.Mutex // held by Append
	failed  error      // under writing
	buf     []byte     // under writing
	out     *os.File   // under writing: the newest epoch's file, nil: not yet opened for writing
	zeroed  int64      // under writing: up to where out has space that was written already

	mu     sync.RWMutex
	epochs []*epoch         // oldest first; each is changed only under mu and writing
	visas  map[string]place // by cti: where Visa has found them, at most knownVisas
}

// epoch is what is known about one file.
type epoch struct {
	number     int
	id         journal.EpochID
	path       string
	end        int64 // of the last complete frame
	tree       journal.Tree
	start      *journal.EpochStart
	key        *journal.Key
	signedHead []byte
	marks      []mark
	snapshots  snapshots
}

// mark lets a reader begin in the middle of a file: the tree before the frame at that offset.
type mark struct {
	offset int64
	size   uint64
	edge   []journal.Hash
}

// markEvery is the distance of marks in entries: at most so many are hashed to prove one.
const markEvery = 1024

// Open opens the journal in dir for writing; dir is made if it is missing. It locks other writers out, checks everything
// there, and sets a torn end aside (see Recovered).
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("journal %s: %w", dir, ErrLocked)
		}
		return nil, fmt.Errorf("journal %s: lock: %w", dir, err)
	}
	s := &Store{dir: dir, lock: lock}
	if err := s.load(); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

// OpenReadOnly opens the journal in dir as it is now, up to the last complete batch. It changes nothing and does not mind
// a writer; what is written later is seen by opening again.
func OpenReadOnly(dir string) (*Store, error) {
	if _, err := os.ReadDir(dir); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	s := &Store{dir: dir}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the store and lets another writer in.
func (s *Store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.failed = errors.Join(ErrFailed, os.ErrClosed)
	var err error
	if s.out != nil {
		s.trim(s.newest())
		err = s.out.Close()
		s.out = nil
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	return err
}

// Recovered lists what opening found torn.
func (s *Store) Recovered() []Recovery { return s.recovered }

// Attach says what the store holds, for the first message of the Persist stream.
func (s *Store) Attach() *enclavev1.Attach {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.epochs) == 0 {
		return &enclavev1.Attach{}
	}
	e := s.epochs[len(s.epochs)-1]
	return &enclavev1.Attach{
		Epoch:       bytes.Clone(e.id[:]),
		Size:        e.tree.Size(),
		SignedHead:  bytes.Clone(e.signedHead),
		KeyEvidence: e.start.KeyEvidence.Encode(),
	}
}

// Append makes a batch durable. When it returns nil the batch may be acknowledged; after an error nothing of it is kept.
// A batch must continue its epoch or begin a new one, and its entries must lead to the root in its head. A batch that is
// already there, byte for byte, is fine: the acknowledgement was lost. After ErrFailed the store takes nothing more.
func (s *Store) Append(b *enclavev1.Batch) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if s.lock == nil {
		return ErrReadOnly
	}
	id, err := journal.ParseEpochID(b.GetEpoch())
	if err != nil {
		return fmt.Errorf("%w: %v", ErrBatch, err)
	}
	if e := s.epoch(id); e != nil {
		if b.FirstIndex < e.tree.Size() {
			return s.sameAsStored(e, b)
		}
		if e != s.newest() {
			return fmt.Errorf("%w: epoch %s has ended", ErrBatch, id)
		}
		return s.extend(e, b)
	}
	return s.begin(id, b)
}

// epoch finds a loaded epoch; nil: there is none.
func (s *Store) epoch(id journal.EpochID) *epoch {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := len(s.epochs) - 1; i >= 0; i-- {
		if s.epochs[i].id == id {
			return s.epochs[i]
		}
	}
	return nil
}

func (s *Store) newest() *epoch {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.epochs) == 0 {
		return nil
	}
	return s.epochs[len(s.epochs)-1]
}

// sameAsStored compares a batch that arrives again with what is there.
func (s *Store) sameAsStored(e *epoch, b *enclavev1.Batch) error {
	if b.FirstIndex+uint64(len(b.Entries)) > e.tree.Size() {
		return fmt.Errorf("%w: it begins at entry %d and ends behind %d, where the journal ends", ErrBatch, b.FirstIndex, e.tree.Size())
	}
	next := b.Entries
	for record, err := range s.Entries(Filter{Epoch: &e.id, From: b.FirstIndex}) {
		if err != nil {
			return err
		}
		if len(next) == 0 {
			break
		}
		if !bytes.Equal(record.Raw, next[0]) {
			return fmt.Errorf("%w: entry %d differs from the one that is there", ErrBatch, record.Index)
		}
		next = next[1:]
	}
	return nil
}
