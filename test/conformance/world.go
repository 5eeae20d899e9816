package conformance

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// World is the folder that the cases of a setting act on, and what else they could harm.
type World struct {
	Folder  string // FOLDER
	Program string // PROGRAM: a copy of the probe beside the folder

	hash       string // HASH: of the probe
	uid        int
	attributes bool // files have attributes of users here: before Linux 6.6 those in memory have none
	victim     *exec.Cmd
	mutex      sync.Mutex
	reached    map[string]*atomic.Int64 // by socket: connections and datagrams that came
	seen       map[string]sight         // by path: what a file was when it was looked at last
	close      []func() error
}

// newWorld makes a folder below parent for a user, with a copy of the probe beside it, and a victim.
func newWorld(parent, program string, uid int) (*World, error) {
	root, err := os.MkdirTemp(parent, "conformance-")
	if err != nil {
		return nil, err
	}
	w := &World{Folder: filepath.Join(root, "f"), Program: filepath.Join(root, "probe"), uid: uid, reached: map[string]*atomic.Int64{}, seen: map[string]sight{}}
	w.close = append(w.close, func() error { return os.RemoveAll(root) })
	raw, err := os.ReadFile(program)
	w.hash = fmt.Sprintf("%x", sha256.Sum256(raw))
	if err == nil {
		err = errors.Join(os.Chmod(root, 0o755), os.Mkdir(w.Folder, 0o755), os.WriteFile(w.Program, raw, 0o755))
	}
	w.attributes = unix.Setxattr(root, "user.raypher", []byte("x"), 0) == nil
	if err == nil {
		err = w.startVictim()
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// startVictim starts a process of the agent's user outside the agent.
func (w *World) startVictim() error {
	w.victim = exec.Command(w.Program, "victim")
	w.victim.SysProcAttr = credential(w.uid)
	input, err := w.victim.StdinPipe()
	if err != nil {
		return err
	}
	output, err := w.victim.StdoutPipe()
	if err != nil {
		return err
	}
	if err := w.victim.Start(); err != nil {
		return fmt.Errorf("start the victim: %w", err)
	}
	w.close = append(w.close, func() error {
		input.Close()
		_ = w.victim.Process.Kill() // it may be stopped
		_ = w.victim.Wait()
		return nil
	})
	// Until it says so, it sets limits of its own.
	if _, err := output.Read(make([]byte, 16)); err != nil {
		return fmt.Errorf("the victim does not begin: %w", err)
	}
	return nil
}

// credential is how root starts something as a user; nil: as this one.
func credential(uid int) *syscall.SysProcAttr {
	if os.Getuid() == uid {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
}

// Close ends and removes everything.
func (w *World) Close() (err error) {
	for _, one := range slices.Backward(w.close) {
		err = errors.Join(err, one())
	}
	w.close = nil
	return err
}

// Path is a path in the folder.
func (w *World) Path(name string) string { return w.Folder + "/" + name }

// File makes a file with the content "text", and the folders above it.
func (w *World) File(names ...string) (err error) {
	for _, name := range names {
		path := w.Path(name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("text"), 0o644))
	}
	return err
}

// Dir makes folders.
func (w *World) Dir(names ...string) (err error) {
	for _, name := range names {
		err = errors.Join(err, os.MkdirAll(w.Path(name), 0o755))
	}
	return err
}

// Copy makes programs: copies of the probe.
func (w *World) Copy(names ...string) error {
	raw, err := os.ReadFile(w.Program)
	for _, name := range names {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(w.Path(name)), 0o755), os.WriteFile(w.Path(name), raw, 0o755))
	}
	return err
}

// Script makes a program that an interpreter runs.
func (w *World) Script(name, interpreter string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(w.Path(name)), 0o755), os.WriteFile(w.Path(name), []byte("#!"+interpreter+"\n"), 0o755))
}

// Listen makes sockets that count who comes: a path in the folder, or @ and an abstract name.
func (w *World) Listen(network string, names ...string) error {
	for _, name := range names {
		address := name
		if name[0] != '@' {
			address = w.Path(name)
			if err := os.MkdirAll(filepath.Dir(address), 0o755); err != nil {
				return err
			}
		}
		count := new(atomic.Int64)
		w.mutex.Lock()
		w.reached[name] = count
		w.mutex.Unlock()
		if network == "unixgram" {
			conn, err := net.ListenUnixgram(network, &net.UnixAddr{Name: address, Net: network})
			if err != nil {
				return err
			}
			w.close = append(w.close, conn.Close)
			go take(conn, count)
			continue
		}
		listener, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		w.close = append(w.close, listener.Close)
		go greet(listener, count)
	}
	return nil
}

// take counts datagrams.
func take(conn *net.UnixConn, count *atomic.Int64) {
	var room [64]byte
	for {
		if _, _, err := conn.ReadFrom(room[:]); err != nil {
			return
		}
		count.Add(1)
	}
}

// greet counts connections and says hello.
func greet(listener net.Listener, count *atomic.Int64) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		count.Add(1)
		_, _ = c.Write([]byte("hello")) // who came may be gone
		c.Close()
	}
}

// give makes everything the user's.
func (w *World) give() error {
	return filepath.WalkDir(w.Folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, w.uid, w.uid)
	})
}

// expand puts the world's names into a text of a table.
func (w *World) expand(text string) string {
	return strings.NewReplacer("FOLDER", w.Folder, "PROGRAM", w.Program, "VICTIM", strconv.Itoa(w.victim.Process.Pid), "HASH", w.hash).Replace(text)
}

// state is what the cases can change: by what it is called, its properties in a fixed order.
type state map[string]map[string]string

// look takes the state. Nothing of it is the agent's word.
func (w *World) look() (state, error) {
	s := state{}
	err := filepath.WalkDir(w.Folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		one, err := w.lookAt(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, w.Folder), "/")
		s[name] = one
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at the world: %w", err)
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for name, count := range w.reached {
		s["socket "+name] = map[string]string{"reached": strconv.FormatInt(count.Load(), 10)}
	}
	s["victim"] = lookAtProcess(w.victim.Process.Pid)
	s["host"] = lookAtHost()
	return s, nil
}

// contents makes the same content the same word in this process.
var contents = maphash.MakeSeed()

// sight is a file as it was found at a moment.
type sight struct {
	status     unix.Stat_t
	at         time.Time
	properties map[string]string
}

// tick bounds how coarse a file system's clock is: what changes later than that after a look has another time of its status.
const tick = 100 * time.Millisecond

// lookAt tells all of a file that an agent could change. What it is made of is read again only where its status may have changed: the
// kernel sets that time at each change, and no action of the probe writes through a mapping.
func (w *World) lookAt(path string) (map[string]string, error) {
	now := time.Now()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	st.Atim = unix.Timespec{} // looking changes it
	last, known := w.seen[path]
	if known && last.status == st && last.at.Sub(time.Unix(st.Ctim.Unix())) > tick {
		return last.properties, nil
	}
	one, err := properties(path, &st)
	if err == nil {
		w.seen[path] = sight{st, now, one}
	}
	return one, err
}

// properties are those of a file, by name.
func properties(path string, st *unix.Stat_t) (map[string]string, error) {
	one := map[string]string{
		"inode": fmt.Sprint(st.Dev, st.Ino), "mode": fmt.Sprintf("%o", st.Mode), "owner": fmt.Sprint(st.Uid, st.Gid),
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR { // a folder's change with what is in it, which is looked at itself
		one["links"] = fmt.Sprint(st.Nlink)
		one["times"] = fmt.Sprint(st.Mtim)
		one["status"] = fmt.Sprint(st.Ctim)
	}
	switch kind {
	case unix.S_IFREG:
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		one["content"] = strconv.FormatUint(maphash.Bytes(contents, raw), 16) // fast: an emulated machine looks at many programs
		room := make([]byte, 1024)
		length, _ := unix.Llistxattr(path, room) // without any, or not supported
		one["attributes"] = string(room[:max(0, length)])
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		one["target"] = target
	}
	return one, nil
}

// lookAtProcess tells what signals, tracers and settings do to a process.
func lookAtProcess(pid int) map[string]string {
	one := map[string]string{}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return map[string]string{"state": "gone"}
	}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch key {
		case "State", "TracerPid", "Cpus_allowed":
			one[key] = strings.TrimSpace(value)
		}
	}
	if strings.HasPrefix(one["State"], "R") || strings.HasPrefix(one["State"], "S") {
		delete(one, "State") // running and waiting for input are the same here
	}
	if priority, err := unix.Getpriority(unix.PRIO_PROCESS, pid); err == nil {
		one["priority"] = strconv.Itoa(priority)
	}
	var limit unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit) == nil {
		one["limit"] = fmt.Sprint(limit)
	}
	return one
}

// lookAtHost tells what the host as a whole would be changed by.
func lookAtHost() map[string]string {
	one := map[string]string{}
	for name, path := range map[string]string{"mounts": "/proc/self/mountinfo", "core": "/proc/sys/kernel/core_pattern", "name": "/proc/sys/kernel/hostname"} {
		if raw, err := os.ReadFile(path); err == nil {
			one[name] = string(raw)
		}
	}
	return one
}

// changes says what differs: "+name" is new, "-name" is gone, "name: property, property" changed. Of what changes with each change
// (the time of the status) only a file that has no other is named.
func (before state) changes(after state) string {
	var all []string
	for name, one := range after {
		was, known := before[name]
		if !known {
			all = append(all, "+"+name)
			continue
		}
		var what []string
		for property, value := range one {
			if was[property] != value {
				what = append(what, property)
			}
		}
		slices.Sort(what)
		if len(what) > 1 {
			what = slices.DeleteFunc(what, func(p string) bool { return p == "status" })
		}
		if slices.Contains(what, "content") || slices.Contains(what, "inode") { // another object's times may be the same, or not
			what = slices.DeleteFunc(what, func(p string) bool { return p == "times" })
		}
		if len(what) > 0 {
			all = append(all, name+": "+strings.Join(what, ", "))
		}
	}
	for name := range before {
		if _, still := after[name]; !still {
			all = append(all, "-"+name)
		}
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// Link makes a symbolic link.
func (w *World) Link(target, name string) error { return os.Symlink(target, w.Path(name)) }

// Hard gives a file a second name.
func (w *World) Hard(old, name string) error { return os.Link(w.Path(old), w.Path(name)) }

// append adds to the end of a file.
func (w *World) append(name, text string) error {
	file, err := os.OpenFile(w.Path(name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}
