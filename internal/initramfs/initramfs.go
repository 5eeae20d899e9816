// Package initramfs writes the first file system of a Linux kernel, for the virtual machines of tests.
package initramfs

import (
	"compress/gzip"
	"fmt"
	"io"
)

// Writer writes one file after the other, in the newc format (Documentation/driver-api/early-userspace/buffer-format.rst),
// compressed. Folders come before what lies in them.
type Writer struct {
	zip   *gzip.Writer
	inode int
	err   error
}

// NewWriter writes to w. Close it in the end.
func NewWriter(w io.Writer) *Writer {
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is one that there is
	}
	return &Writer{zip: zip}
}

// Folder adds a folder that everybody may read. Names begin without a slash.
func (w *Writer) Folder(name string) { w.add(name, 0o40755, nil) }

// File adds a file with permissions.
func (w *Writer) File(name string, permissions uint32, content []byte) {
	w.add(name, 0o100000|permissions, content)
}

// Close completes the file system and returns the first error of all.
func (w *Writer) Close() error {
	w.add("TRAILER!!!", 0, nil)
	if err := w.zip.Close(); w.err == nil {
		w.err = err
	}
	return w.err
}

func (w *Writer) add(name string, mode uint32, content []byte) {
	w.inode++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		w.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(head), padding(len(head)), content, padding(len(content))} {
		if _, err := w.zip.Write(part); err != nil && w.err == nil {
			w.err = err
		}
	}
}

// padding fills up to a multiple of four bytes.
func padding(n int) []byte { return make([]byte, (4-n%4)%4) }
