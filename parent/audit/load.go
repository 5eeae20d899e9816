package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"

	"github.com/raypher/raypher/journal"
)

// fileName is compiled when a journal is read: the CLI is linked with this package, and most of its commands read none.
var fileName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9]{6,9})-([0-9a-f]{32})\.journal$`) })

// load reads and checks every epoch in the folder.
func (s *Store) load() error {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	var found []*epoch
	for _, name := range names {
		parts := fileName().FindStringSubmatch(name.Name())
		if parts == nil {
			continue
		}
		number, err := strconv.Atoi(parts[1])
		if err != nil {
			return fmt.Errorf("journal %s: %w", name.Name(), err)
		}
		found = append(found, &epoch{number: number, path: filepath.Join(s.dir, name.Name())})
	}
	slices.SortFunc(found, func(a, b *epoch) int { return a.number - b.number })
	for i, e := range found {
		if e.number != i {
			return fmt.Errorf("journal %s: file %06d is missing, or there twice: restore it from a copy", s.dir, i)
		}
		complete, err := s.loadEpoch(e, i == len(found)-1)
		if err != nil {
			return err
		}
		if !complete {
			break // the newest, without a single complete frame
		}
		if err := s.checkPredecessor(e); err != nil {
			return err
		}
		s.epochs = append(s.epochs, e)
	}
	return nil
}

// loadEpoch reads one file. complete is false where it holds not one complete frame, which only the newest may.
func (s *Store) loadEpoch(e *epoch, newest bool) (complete bool, _ error) {
	file, err := os.Open(e.path)
	if err != nil {
		return false, fmt.Errorf("journal: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("journal: %w", err)
	}
	scan := &frames{file: file, offset: int64(fileHeaderSize), end: info.Size()}
	err = e.readHeader(file, info.Size())
	for err == nil {
		if err = s.loadFrame(e, scan); errors.Is(err, errTorn) && s.moved(file, scan) {
			err = nil
		}
	}
	if errors.Is(err, io.EOF) && e.tree.Size() == 0 {
		err = errTorn // a header without a frame
	}
	var altered *brokenFrame
	switch {
	case errors.As(err, &altered):
		return false, &AlteredError{File: e.path, Epoch: e.id, Entry: altered.entry, Reason: altered.reason}
	case errors.Is(err, errTorn) && newest:
		if err := s.setAside(e, file, scan.end); err != nil {
			return false, err
		}
	case errors.Is(err, errTorn):
		return false, &AlteredError{File: e.path, Epoch: e.id, Entry: e.tree.Size(), Reason: "the file ends too early"}
	case !errors.Is(err, io.EOF):
		return false, fmt.Errorf("journal %s: %w", e.path, err)
	}
	if e.tree.Size() == 0 {
		return false, nil
	}
	if _, err := journal.VerifyHead(e.signedHead, e.key); err != nil {
		return false, &AlteredError{File: e.path, Epoch: e.id, Entry: e.tree.Size() - 1, Reason: err.Error()}
	}
	if newest && s.lock != nil {
		return true, s.settle(file)
	}
	return true, nil
}

// settle makes durable what a writer that was killed had not synced yet: from now on the enclave takes it for acknowledged.
func (s *Store) settle(file *os.File) error {
	if err := errors.Join(fdatasync(file), syncFolder(s.dir)); err != nil {
		return fmt.Errorf("journal %s: sync: %w", file.Name(), err)
	}
	return nil
}

// moved says whether a writer beside this reader has changed the length of a file since it was looked at: there are further batches,
// or the zeros behind the last one are gone.
func (s *Store) moved(file *os.File, scan *frames) bool {
	info, err := file.Stat()
	if s.lock != nil || err != nil || info.Size() == scan.end {
		return false
	}
	scan.end = info.Size()
	return true
}

func (e *epoch) readHeader(file *os.File, size int64) error {
	if size < int64(fileHeaderSize) {
		return errTorn
	}
	header := make([]byte, fileHeaderSize)
	if _, err := file.ReadAt(header, 0); err != nil {
		return err
	}
	if onlyZeros(file, int64(fileHeaderSize), size) {
		return errTorn // nothing but a header, or a hole as a power failure leaves it
	}
	id, err := parseFileHeader(header)
	if err != nil {
		return &brokenFrame{0, err.Error()}
	}
	if named := fileName().FindStringSubmatch(filepath.Base(e.path))[2]; named != id.String() {
		return &brokenFrame{0, "the file is named after another epoch"}
	}
	e.id, e.end = id, int64(fileHeaderSize)
	return nil
}

// looksAgain is how often a reader reads a frame again before it says that it was altered: a writer beside it may have written it meanwhile.
const looksAgain = 3

// loadFrame takes the next frame into the epoch. What does not lead to the head that came with it was altered by somebody
// who knows how to compute checksums.
func (s *Store) loadFrame(e *epoch, scan *frames) error {
	f, err := scan.next()
	var broken *brokenFrame
	for again := 0; errors.As(err, &broken) && s.lock == nil && again < looksAgain; again++ {
		f, err = scan.next()
	}
	if err != nil {
		return err
	}
	after, err := e.follow(f.first, f.entries, f.signedHead)
	if err != nil {
		return &brokenFrame{f.first, err.Error()}
	}
	e.advance(after, f.signedHead, f.next)
	return nil
}

// checkPredecessor refuses an epoch that says that the one before it was longer or other than what is there.
func (s *Store) checkPredecessor(e *epoch) error {
	p := e.start.Predecessor
	if p == nil {
		return nil // Append takes no such epoch; Verify calls it a gap
	}
	for _, before := range s.epochs {
		if before.id != p.Epoch {
			continue
		}
		if before.tree.Size() < p.Size {
			return &AlteredError{File: before.path, Epoch: before.id, Entry: before.tree.Size(),
				Reason: fmt.Sprintf("the next epoch says that there were %d entries", p.Size)}
		}
	}
	return nil
}

// setAside moves what was written behind the last complete frame into a file of its own. A reader only reports it.
func (s *Store) setAside(e *epoch, file *os.File, size int64) error {
	r := Recovery{File: e.path, Bytes: size, Entries: e.tree.Size()}
	if e.tree.Size() > 0 {
		r.Bytes = written(file, e.end, size) - e.end
	}
	if s.lock == nil {
		s.recovered = append(s.recovered, r)
		return nil
	}
	var err error
	if e.tree.Size() == 0 {
		r.SavedAs, err = s.setFileAside(e.path)
	} else {
		r.SavedAs, err = s.setEndAside(e, r.Bytes)
	}
	if err != nil {
		return fmt.Errorf("journal %s: set the torn end aside: %w", e.path, err)
	}
	s.recovered = append(s.recovered, r)
	return nil
}

func (s *Store) setFileAside(path string) (string, error) {
	saved := freeName(path)
	if err := os.Rename(path, saved); err != nil {
		return "", err
	}
	return saved, syncFolder(s.dir)
}

func (s *Store) setEndAside(e *epoch, size int64) (string, error) {
	file, err := os.OpenFile(e.path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	saved := freeName(e.path)
	copied, err := os.OpenFile(saved, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer copied.Close()
	if _, err := io.Copy(copied, io.NewSectionReader(file, e.end, size)); err != nil {
		return "", err
	}
	if err := copied.Sync(); err != nil {
		return "", err
	}
	if err := file.Truncate(e.end); err != nil {
		return "", err
	}
	if err := file.Sync(); err != nil {
		return "", err
	}
	return saved, syncFolder(s.dir)
}

// freeName finds a name for what is set aside; the caller holds the lock, so nobody else takes it.
func freeName(path string) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s.torn-%d", path, i)
		if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
			return name
		}
	}
}
