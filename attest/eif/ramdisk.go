package eif

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
)

// Modes of the entries of a ramdisk (inode(7)).
const (
	ModeDirectory  = 0o040000
	ModeRegular    = 0o100000
	ModeCharDevice = 0o020000
)

// Entry is a file, folder or device in a ramdisk. It belongs to root, and its time is 1970.
type Entry struct {
	Path         string // relative, without . and ..
	Mode         uint32 // type and permissions
	Major, Minor uint32 // of a device
	Content      []byte // of a regular file
}

// trailer ends an archive (newc).
const trailer = "TRAILER!!!"

// MakeRamdisk writes an archive that kernels unpack at their start (newc: Documentation/driver-api/early-userspace/buffer-format.rst).
// The entries are sorted, so the same ones make the same bytes. It is not compressed: a compressor's next version would change the
// measurements, and plain archives are what AWS's own builder writes.
func MakeRamdisk(entries []Entry) ([]byte, error) {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	var archive []byte
	for n, e := range entries {
		switch {
		case e.Path == "" || e.Path != path.Clean(e.Path) || path.IsAbs(e.Path) || strings.HasPrefix(e.Path, "..") || e.Path == "." || e.Path == trailer || strings.ContainsRune(e.Path, 0):
			return nil, fmt.Errorf("%q cannot be the path of an entry", e.Path)
		case n > 0 && e.Path == entries[n-1].Path:
			return nil, fmt.Errorf("%s: twice in one ramdisk", e.Path)
		case e.Mode&0o170000 != ModeRegular && len(e.Content) > 0:
			return nil, fmt.Errorf("%s: content in something that is no regular file", e.Path)
		case len(e.Content) > math.MaxUint32:
			return nil, fmt.Errorf("%s: larger than an archive can say", e.Path)
		}
		archive = appendEntry(archive, n+1, e)
	}
	archive = appendEntry(archive, 0, Entry{Path: trailer})
	return append(archive, make([]byte, -len(archive)&511)...), nil // whole blocks of 512, as cpio writes
}

func appendEntry(archive []byte, inode int, e Entry) []byte {
	links := 1
	if e.Mode&0o170000 == ModeDirectory {
		links = 2
	}
	// ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	archive = fmt.Appendf(archive, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", cpioMagic,
		inode, e.Mode, 0, 0, links, 0, len(e.Content), 0, 0, e.Major, e.Minor, len(e.Path)+1, 0)
	archive = append(append(archive, e.Path...), 0)
	archive = append(archive, make([]byte, -len(archive)&3)...)
	archive = append(archive, e.Content...)
	return append(archive, make([]byte, -len(archive)&3)...)
}
