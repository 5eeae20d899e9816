// Package statefile reads and replaces small files in a private state folder: no link is followed out of it, sizes are bounded,
// and a crash at any moment leaves the old file or the new one, whole.
package statefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Read returns a regular file of at most limit bytes. A missing one is os.ErrNotExist.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// Write replaces a file in dir, whole or not at all, mode 0600, synced.
func Write(dir, name string, content []byte) error {
	return appear(dir, name, content, os.Rename)
}

// Create writes a file that does not exist yet, as Write does. made is false, and the file untouched, when there is one.
func Create(dir, name string, content []byte) (made bool, err error) {
	err = appear(dir, name, content, os.Link)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// appear writes content under a temporary name and gives it its own by one step.
func appear(dir, name string, content []byte, step func(from, to string) error) error {
	f, err := os.CreateTemp(dir, name+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = step(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
