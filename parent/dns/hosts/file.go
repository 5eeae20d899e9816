package hosts

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// settled is how long a file must have been left alone before what its inode says is taken for unchanged content: two changes
// within one tick of the file system's clock look like one.
const settled = time.Second

// File is a hosts file that is read again when it changed. Safe for concurrent use.
type File struct {
	path string

	mu    sync.Mutex
	seen  stamp
	sure  bool // seen stands for one content
	table Table
	count uint64
}

// stamp is what tells one content of a file from another.
type stamp struct {
	device, inode    uint64
	size             int64
	modified, change syscall.Timespec
}

// Open names a hosts file; it need not exist.
func Open(path string) *File { return &File{path: path} }

// Table is what the file says now, shared: do not change it. version is another number whenever the content may be another one.
func (f *File) Table() (table Table, version uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s syscall.Stat_t
	now := stamp{}
	switch err := syscall.Stat(f.path, &s); {
	case err == nil:
		now = stamp{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}
	case !errors.Is(err, os.ErrNotExist):
		return nil, 0, fmt.Errorf("hosts file %s: %w", f.path, err)
	}
	if f.sure && now == f.seen {
		return f.table, f.count, nil
	}
	if table, err = Read(f.path); err != nil {
		return nil, 0, err
	}
	f.table, f.count, f.seen = table, f.count+1, now
	f.sure = time.Since(time.Unix(now.change.Unix())) > settled
	return f.table, f.count, nil
}
