package agents

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxProgram bounds the programs that are hashed, in bytes.
const maxProgram = 4 << 30

// mayExecute says why a user may not execute a file. A descriptor alone proves nothing: anybody opens anything with O_PATH, and the
// digest of a short secret tells what it is.
func mayExecute(f *os.File, uid uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IXOTH != 0 {
		return nil
	}
	return asUser(uid, func() error {
		return unix.Faccessat(int(f.Fd()), "", unix.X_OK, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
	})
}

// maxDigests bounds the cache.
const maxDigests = 1024

// settled is how old a file's last change must be for its digest to be kept: a second change within the same tick of the
// kernel's clock could not be told from the first.
const settled = 2 * time.Second

// digests remembers what programs hash to, so that a large interpreter is read once and not at every launch. A file is the
// same if device, inode, size and the time of the last change of its inode are: nobody but root can set the last.
type digests struct {
	mu    sync.Mutex
	known map[fileState][]byte
}

type fileState struct {
	device, inode  uint64
	size           int64
	changed, wrote unix.Timespec
}

func stateOf(f *os.File) (fileState, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileState{}, err
	}
	return fileState{uint64(st.Dev), st.Ino, st.Size, st.Ctim, st.Mtim}, nil
}

// of returns the SHA-256 of a program.
func (d *digests) of(f *os.File) ([]byte, error) {
	before, err := stateOf(f)
	if err != nil {
		return nil, fmt.Errorf("hashing the program: %w", err)
	}
	if before.size > maxProgram {
		return nil, fmt.Errorf("hashing the program: %d bytes, at most %d", before.size, int64(maxProgram))
	}
	d.mu.Lock()
	known := d.known[before]
	d.mu.Unlock()
	if known != nil {
		return known, nil
	}
	begun := time.Now()
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(f, maxProgram)); err != nil {
		return nil, fmt.Errorf("hashing the program: %w", err)
	}
	sum := hash.Sum(nil)
	after, err := stateOf(f)
	if err != nil {
		return nil, fmt.Errorf("hashing the program: %w", err)
	}
	if after != before {
		return nil, fmt.Errorf("hashing the program: it was changed meanwhile: try again")
	}
	if begun.Sub(time.Unix(before.changed.Unix())) > settled {
		d.keep(before, sum)
	}
	return sum, nil
}

func (d *digests) keep(state fileState, sum []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil || len(d.known) >= maxDigests {
		d.known = make(map[fileState][]byte)
	}
	d.known[state] = sum
}
