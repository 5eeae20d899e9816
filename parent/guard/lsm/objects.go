package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/bpf"
)

// How objects are treated: OBJECT_ in bpf/lsmguard/state.h.
const (
	objectClosed = 1 << iota
	objectSealed
	objectHolds
	objectDevice
	objectLoader
	objectSocket
)

// mark writes down the objects that the rules do not decide alone. Of what is not there, closed and sealed paths are kept in
// Guard.absent, for the rules to refuse that an agent makes them; the rest cannot be reached, and who makes it later must arm again.
func (g *Guard) mark(a Agent, number uint32) error {
	devices, err := mountedDevices()
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		paths  []string
		flags  uint32
		number uint32
	}{
		{a.Closed, objectClosed, 0}, {a.Sealed, objectSealed, 0}, {a.Sockets, objectSocket, 0},
		{a.Devices, objectDevice, number}, {a.Loaders, objectLoader, number},
	} {
		for _, path := range kind.paths {
			if err := g.markObject(devices, path, kind.flags, kind.number); err != nil {
				return err
			}
			if kind.flags&(objectClosed|objectSealed) == 0 {
				continue
			}
			if err := g.markAbove(devices, path); err != nil {
				return err
			}
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				g.absent[filepath.Clean(path)] = true
			} else {
				delete(g.absent, filepath.Clean(path))
			}
		}
	}
	return nil
}

// markAbove keeps the folders above an object where they are.
func (g *Guard) markAbove(devices map[uint64]uint32, path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil // it is not there
	}
	for dir := filepath.Dir(real); dir != "/"; dir = filepath.Dir(dir) {
		if err := g.markObject(devices, dir, objectHolds, 0); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guard) markObject(devices map[uint64]uint32, path string, flags, number uint32) error {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_MNT_ID, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("file guard: %s: %w", path, err)
	}
	device, known := devices[st.Mnt_id]
	if !known {
		return fmt.Errorf("file guard: %s: mount %d is not in /proc/self/mountinfo", path, st.Mnt_id)
	}
	key := bpf.LsmguardObjectKey{Inode: st.Ino, Device: device, Number: number}
	var before uint32
	if err := g.maps.Objects.Lookup(key, &before); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return explain("file guard: objects", err)
	}
	if before&flags == flags {
		return nil
	}
	return explain("file guard: objects", g.maps.Objects.Put(key, before|flags))
}

// mountedDevices are the devices of file systems by the number of the mount, as the kernel keeps them: stat says another one for
// files on some (btrfs).
func mountedDevices() (map[uint64]uint32, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("file guard: look at the mounts: %w", err)
	}
	all := map[uint64]uint32{}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		id, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			continue
		}
		major, minor, _ := strings.Cut(fields[2], ":")
		high, err := strconv.ParseUint(major, 10, 12)
		low, lowErr := strconv.ParseUint(minor, 10, 20)
		if err != nil || lowErr != nil {
			continue
		}
		all[id] = uint32(high<<20 | low) // MKDEV, include/linux/kdev_t.h
	}
	return all, nil
}
