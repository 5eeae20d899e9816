package broker

import (
	"crypto/sha256"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A program whose content the policy fixes is hashed through a descriptor of the very object that was decided on. What is executed
// then is that file unless a thread changes the path of the call, and then it is another one that the floor lets be executed: floor
// leaves out each file whose hash does not hold at the start, and lets the agent write none of them. So between hash and execution
// the content can be changed by others on the host alone.

// ruleHash is in the verdict on a file with another content than the policy fixes.
const ruleHash = "its content has another SHA-256 than the policy says"

// ruleFixed is in the verdict on a change of a file whose content the policy fixes.
const ruleFixed = "its content is fixed by the policy"

// Bounds of what is remembered.
const (
	maxSums = 256
	stable  = time.Second // a change in the tick of the file system's clock in which the file was hashed would not show
)

// version is one content of one file, as far as its status tells.
type version struct {
	device, inode    uint64
	size             int64
	changed, written unix.Timespec
}

func versionOf(st *unix.Stat_t) version {
	return version{uint64(st.Dev), st.Ino, st.Size, st.Ctim, st.Mtim}
}

// sums remembers hashes. It is safe for concurrent use.
type sums struct {
	mutex sync.Mutex
	known map[version][sha256.Size]byte
}

// hasItsHash reports whether a file has the content that the permit fixes for its path, if it does.
func (w *worker) hasItsHash(r *ruling, o *object) bool {
	want, fixed := r.programs[o.path]
	if !fixed {
		return true
	}
	got, err := w.sums.of(o)
	return err == nil && got == want
}

// of is the SHA-256 of an object.
func (s *sums) of(o *object) (sum [sha256.Size]byte, err error) {
	fd, err := unix.Open(o.reopen(), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return sum, err
	}
	file := os.NewFile(uintptr(fd), o.path)
	defer file.Close()
	var before, after unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return sum, err
	}
	s.mutex.Lock()
	sum, known := s.known[versionOf(&before)]
	s.mutex.Unlock()
	if known {
		return sum, nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return sum, err
	}
	hash.Sum(sum[:0])
	if err := unix.Fstat(fd, &after); err != nil || versionOf(&before) != versionOf(&after) {
		return [sha256.Size]byte{}, unix.ETXTBSY // somebody is writing it
	}
	if time.Since(time.Unix(after.Ctim.Unix())) < stable {
		return sum, nil
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.known == nil || len(s.known) >= maxSums {
		s.known = map[version][sha256.Size]byte{}
	}
	s.known[versionOf(&after)] = sum
	return sum, nil
}
