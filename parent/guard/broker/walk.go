package broker

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's own bound (MAXSYMLINKS, include/linux/namei.h).
const maxLinks = 40

// walk follows a path component by component, for paths that lead through procfs. There, /proc/self is whoever looks, and some
// links have no text but are the object itself; the walk takes the target's place.
type walk struct {
	*worker
	target *notification
	group  int // thread group of the target; 0: not yet known
	links  int
	at     int // O_PATH descriptor that the walk owns
}

// to returns an O_PATH descriptor of where path leads from a folder.
func (k *walk) to(from int, path string, f lookupFlags) (int, error) {
	if err := k.begin(from, path); err != nil {
		return -1, err
	}
	left := strings.Split(path, "/")
	for len(left) > 0 {
		name := left[0]
		left = left[1:]
		if name == "" || name == "." {
			continue
		}
		last := strings.Trim(strings.Join(left, ""), ".") == "" && !strings.Contains(strings.Join(left, "/"), "..")
		more, err := k.step(name, last && len(left) == 0 && f.noFollow)
		if err != nil {
			unix.Close(k.at)
			return -1, err
		}
		left = append(more, left...)
	}
	if f.folder {
		var st unix.Stat_t
		if err := unix.Fstat(k.at, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			unix.Close(k.at)
			return -1, unix.ENOTDIR
		}
	}
	return k.at, nil
}

// begin puts the walk at its first folder.
func (k *walk) begin(from int, path string) (err error) {
	switch {
	case strings.HasPrefix(path, "/"):
		k.at, err = unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	case from >= 0:
		k.at, err = unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 3)
	default:
		err = errUnsupported
	}
	return err
}

// step goes on to name. It returns the components of a link that it met instead.
func (k *walk) step(name string, keepLink bool) ([]string, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW}
	next, err := unix.Openat2(k.at, name, &how)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(next, &st); err != nil {
		unix.Close(next)
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK || keepLink {
		k.move(next)
		return nil, nil
	}
	unix.Close(next)
	if k.links++; k.links > maxLinks {
		return nil, unix.ELOOP
	}
	if k.inProc() {
		return k.procLink(name)
	}
	return k.textLink(name)
}

func (k *walk) move(next int) {
	unix.Close(k.at)
	k.at = next
}

func (k *walk) inProc() bool {
	return magicOf(k.at) == unix.PROC_SUPER_MAGIC
}

// textLink follows an ordinary link.
func (k *walk) textLink(name string) ([]string, error) {
	room := make([]byte, unix.PathMax)
	length, err := unix.Readlinkat(k.at, name, room)
	if err != nil {
		return nil, err
	}
	text := string(room[:length])
	if strings.HasPrefix(text, "/") {
		root, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		k.move(root)
	}
	return strings.Split(text, "/"), nil
}

// procLink follows a link of procfs as the target would.
func (k *walk) procLink(name string) ([]string, error) {
	folder, err := k.folderPath()
	if err != nil {
		return nil, err
	}
	if k.group == 0 {
		s, err := readStatus(k.target.PID)
		if err != nil || s.group == 0 {
			return nil, unix.EINTR
		}
		k.group = s.group
	}
	if folder == "/proc" {
		switch name {
		case "self":
			return []string{strconv.Itoa(k.group)}, nil
		case "thread-self":
			return []string{strconv.Itoa(k.group), "task", strconv.Itoa(int(k.target.PID))}, nil
		}
		return k.textLink(name) // mounts -> self/mounts, net -> self/net
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(folder, "/proc/"), "/")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return k.textLink(name)
	}
	// The link is an object of that process. The broker has no Landlock domain: it could follow where the target may not.
	if !k.belongs(pid, k.group) {
		return nil, errUnsupported
	}
	next, err := unix.Openat(k.at, name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	k.move(next)
	return nil, nil
}

// folderPath is where the walk is. Procfs mounted elsewhere than at /proc is not followed.
func (k *walk) folderPath() (string, error) {
	length, err := unix.Readlink(ownFD(k.at), k.link[:])
	if err != nil {
		return "", err
	}
	path := string(k.link[:min(length, len(k.link))])
	if !within(path, "/proc") {
		return "", errUnsupported
	}
	return path, nil
}
