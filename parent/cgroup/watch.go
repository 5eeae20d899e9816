package cgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher tells when groups become empty. One inotify descriptor serves every agent: the kernel reports IN_MODIFY on
// cgroup.events when populated changes (kernel/cgroup/cgroup.c, cgroup_file_notify).
type watcher struct {
	file *os.File
	done chan struct{} // closed when the reading goroutine has ended

	mu      sync.Mutex
	watched map[int32]watched
}

type watched struct {
	group *Group
	empty chan struct{}
}

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching cgroups: inotify: %w", err)
	}
	w := &watcher{
		file:    os.NewFile(uintptr(fd), "inotify"),
		done:    make(chan struct{}),
		watched: make(map[int32]watched),
	}
	go w.read()
	return w, nil
}

func (w *watcher) close() error {
	err := w.file.Close()
	<-w.done
	return err
}

func (w *watcher) watch(g *Group) (<-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var wd int
	var err error
	raw, errRaw := w.file.SyscallConn()
	if errRaw != nil {
		return nil, fmt.Errorf("watching agent %s: %w", g.id, errRaw)
	}
	errControl := raw.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), filepath.Join(g.path, "cgroup.events"), unix.IN_MODIFY)
	})
	if errControl != nil {
		err = errControl
	}
	if err != nil {
		return nil, fmt.Errorf("watching agent %s: inotify (fs.inotify.max_user_watches may be too low): %w", g.id, err)
	}
	empty := make(chan struct{})
	// It may have become empty before the watch was there.
	if !g.Populated() {
		close(empty)
		w.forget(int32(wd))
		return empty, nil
	}
	w.watched[int32(wd)] = watched{g, empty}
	return empty, nil
}

// forget removes one watch; w.mu is held.
func (w *watcher) forget(wd int32) {
	delete(w.watched, wd)
	raw, err := w.file.SyscallConn()
	if err != nil {
		return // closed: the kernel has removed it
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
}

func (w *watcher) read() {
	defer close(w.done)
	buffer := make([]byte, 64*unix.SizeofInotifyEvent)
	for {
		n, err := w.file.Read(buffer)
		if err != nil {
			return // closed
		}
		for b := buffer[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b[0:4]))
			mask := binary.NativeEndian.Uint32(b[4:8])
			w.event(wd, mask)
			// struct inotify_event: wd, mask, cookie, len, name[len] (include/uapi/linux/inotify.h).
			b = b[unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:16])):]
		}
	}
}

func (w *watcher) event(wd int32, mask uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if mask&unix.IN_Q_OVERFLOW != 0 {
		// Events were lost: look at every group.
		for wd, one := range w.watched {
			w.look(wd, one)
		}
		return
	}
	if one, ok := w.watched[wd]; ok {
		w.look(wd, one)
	}
}

func (w *watcher) look(wd int32, one watched) {
	if one.group.Populated() {
		return
	}
	close(one.empty)
	w.forget(wd)
}
