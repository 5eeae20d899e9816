package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// maxAhead bounds the zeros that are written ahead, in bytes.
const maxAhead = 1 << 20

var zeros [maxAhead]byte

// extend appends a batch to the newest epoch: one write, mostly over zeros, and one fdatasync.
func (s *Store) extend(e *epoch, b *enclavev1.Batch) error {
	after, err := e.follow(b.FirstIndex, b.Entries, b.SignedHead)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBatch, err)
	}
	if s.out == nil {
		if s.out, err = os.OpenFile(e.path, os.O_RDWR, 0); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	if s.buf, err = appendFrame(s.buf[:0], b.FirstIndex, b.Entries, b.SignedHead); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	end := e.end + int64(len(s.buf))
	if _, err := s.out.WriteAt(s.buf, e.end); err != nil {
		return s.undo(e, fmt.Errorf("journal %s: write: %w", e.path, err))
	}
	if end > s.zeroed {
		s.zeroed = s.zeroAhead(end)
	}
	if err := fdatasync(s.out); err != nil {
		// The kernel may have dropped the pages and forgotten the error: nothing after this can be relied upon.
		return s.fail(s.undo(e, fmt.Errorf("journal %s: sync: %w", e.path, err)))
	}
	s.mu.Lock()
	e.advance(after, b.SignedHead, end)
	s.mu.Unlock()
	return nil
}

// zeroAhead writes zeros behind end, a quarter of what is there, and returns how far they reach. The batches that replace them change
// nothing but content: no length, no blocks, so syncing them does not wait for the file system's own journal. They are synced
// with the batch before them. Without room for them the journal goes on.
func (s *Store) zeroAhead(end int64) int64 {
	n, _ := s.out.WriteAt(zeros[:min(end/4, maxAhead)], end)
	return end + int64(n)
}

// trim removes the zeros behind the last frame of a file that is written no more. They mean nothing, so it does not matter if they stay.
func (s *Store) trim(e *epoch) {
	if s.zeroed > e.end {
		s.out.Truncate(e.end)
	}
	s.zeroed = 0
}

// undo removes what an append has left behind the last complete frame.
func (s *Store) undo(e *epoch, cause error) error {
	s.zeroed = 0
	if err := s.out.Truncate(e.end); err != nil {
		return s.fail(errors.Join(cause, err))
	}
	return cause
}

func (s *Store) fail(cause error) error {
	s.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
	return s.failed
}

// begin starts a new epoch with its first batch: the file appears complete or, after a crash, without a complete frame. The
// epoch must follow the one that the store ends with.
func (s *Store) begin(id journal.EpochID, b *enclavev1.Batch) error {
	e := &epoch{id: id, end: int64(fileHeaderSize)}
	if last := s.newest(); last != nil {
		e.number = last.number + 1
	}
	e.path = filepath.Join(s.dir, fmt.Sprintf("%06d-%s.journal", e.number, id))
	after, err := e.follow(b.FirstIndex, b.Entries, b.SignedHead)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBatch, err)
	}
	if _, err := journal.VerifyHead(b.SignedHead, e.key); err != nil {
		return fmt.Errorf("%w: %w", ErrBatch, err)
	}
	if err := e.checkChain(s.newest()); err != nil {
		return fmt.Errorf("%w: %w", ErrBatch, err)
	}
	buf, err := appendFrame(fileHeader(id), b.FirstIndex, b.Entries, b.SignedHead)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	out, err := s.create(e.path, buf)
	if err != nil {
		return err
	}
	if s.out != nil {
		s.trim(s.newest())
		s.out.Close() // everything in it was synced
	}
	s.out = out
	s.mu.Lock()
	e.advance(after, b.SignedHead, int64(len(buf)))
	s.epochs = append(s.epochs, e)
	s.mu.Unlock()
	return nil
}

// create makes a new file durable with its content, or leaves none.
func (s *Store) create(path string, content []byte) (*os.File, error) {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	_, err = out.Write(content)
	if err == nil {
		err = out.Sync()
	}
	if err == nil {
		err = syncFolder(s.dir)
	}
	if err != nil {
		out.Close()
		if removal := os.Remove(path); removal != nil {
			return nil, s.fail(errors.Join(err, removal))
		}
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return out, nil
}

// follow computes the tree with further entries and compares it with the head that came with them. For the first entry it
// also learns the epoch's key. The signature is not checked.
func (e *epoch) follow(first uint64, entries [][]byte, signedHead []byte) (journal.Tree, error) {
	tree := e.tree
	e.snapshots.found = e.snapshots.found[:0]
	if first != tree.Size() || len(entries) == 0 {
		return tree, fmt.Errorf("%d entries from %d on, expected some from %d on", len(entries), first, tree.Size())
	}
	leaves := make([]journal.Hash, len(entries))
	for i, raw := range entries {
		index := first + uint64(i)
		entry, err := journal.Decode(raw)
		if err != nil {
			return tree, fmt.Errorf("entry %d: %w", index, err)
		}
		if (index == 0) != (entry.Type == journal.TypeEpoch) {
			return tree, fmt.Errorf("entry %d is of type %s: an epoch begins with one epoch entry", index, entry.Type)
		}
		if index == 0 {
			if err := e.learn(entry.Payload); err != nil {
				return tree, err
			}
		}
		if entry.Type == journal.TypeSnapshot {
			if err := e.snapshots.find(index, entry.Payload); err != nil {
				return tree, fmt.Errorf("entry %d: %w", index, err)
			}
		}
		leaves[i] = journal.LeafHash(raw)
	}
	tree.Append(leaves)
	head, signer, err := journal.ReadHead(signedHead)
	if err != nil {
		return tree, err
	}
	switch {
	case head.Epoch != e.id || signer != e.key.ID():
		return tree, fmt.Errorf("the tree head is of epoch %s and key %x", head.Epoch, signer)
	case head.Size != tree.Size() || head.Root != tree.Root():
		return tree, fmt.Errorf("the tree head says %d entries with root %x, the entries give %d with root %x", head.Size, head.Root[:], tree.Size(), root(tree))
	}
	return tree, nil
}

func root(t journal.Tree) []byte { h := t.Root(); return h[:] }

// learn takes the key from entry 0.
func (e *epoch) learn(payload []byte) error {
	start, err := journal.DecodeEpochStart(payload)
	if err != nil {
		return err
	}
	if start.Epoch != e.id {
		return fmt.Errorf("entry 0 begins epoch %s", start.Epoch)
	}
	e.start = start
	e.key, err = start.Key()
	return err
}

// advance takes a frame as committed: the tree after it, its head, and where it ends.
func (e *epoch) advance(after journal.Tree, signedHead []byte, end int64) {
	if n := len(e.marks); n == 0 || e.tree.Size()-e.marks[n-1].size >= markEvery {
		e.marks = append(e.marks, mark{offset: e.end, size: e.tree.Size(), edge: e.tree.Edge()})
	}
	e.tree, e.end = after, end
	e.snapshots.commit()
	e.signedHead = append(e.signedHead[:0:0], signedHead...)
}

func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
