package probe

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Programs that try to get out. Each answers ok when it did not succeed; its test looks from outside too.

func init() {
	maps.Copy(Actions, map[string]func([]string) error{
		"race-folder-fd": raceFolderDescriptor, // granted folder, other folder, name
		"race-cwd":       raceWorkingFolder,    // granted folder, other folder, name
		"race-how":       raceHow,              // file granted for reading
		"race-address":   raceAddress,          // granted socket, other socket
		"race-exec":      raceExec,             // granted program, other program, mark
		"race-fd":        raceDescriptor,       // granted file, other file
		"clone-parent":   cloneParent,          // path
		"own-filter":     ownFilter,            // path
		"own-listener":   ownListener,
		"interrupted":    interrupted, // folder
		"flood":          flood,       // granted file, other file
		"flood-pipes":    floodPipes,
		"received":       received, // socket, path relative to what is received: tries every way to use a descriptor that was sent
		"limit-opens":    limitOpens,
		"fork-forever":   forkForever, // path, mark: until opening fails in this process; every child after that must fail too
	})
}

// secretIn reports the content of a descriptor if it is the secret.
func secretIn(fd uintptr, errno unix.Errno) error {
	if errno != 0 {
		return nil
	}
	return leaked(int(fd))
}

// openRaw opens path relative to folder for reading, by the bytes at an address.
func openRaw(folder int, path []byte) (uintptr, unix.Errno) {
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(folder), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY, 0, 0, 0)
	return fd, errno
}

// raceFolderDescriptor opens a name relative to a descriptor that another thread exchanges all the time.
func raceFolderDescriptor(a []string) error {
	granted, err := unix.Open(a[0], unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	other, err := unix.Open(a[1], unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	shared, err := unix.Dup(granted)
	if err != nil {
		return err
	}
	stop := swapping(func(odd bool) {
		from := granted
		if odd {
			from = other
		}
		_ = unix.Dup3(from, shared, 0)
	})
	defer stop()
	name, opened := append([]byte(a[2]), 0), 0
	for range often(raceTries, &opened) {
		fd, errno := openRaw(shared, name)
		if errno == 0 {
			opened++
		}
		if err := secretIn(fd, errno); err != nil {
			return err
		}
	}
	return happened(opened)
}

func happened(times int) error {
	if times == 0 {
		return errors.New("nothing was ever done: the race did not happen")
	}
	return nil
}

// raceWorkingFolder opens a name relative to a working directory that another thread changes all the time.
func raceWorkingFolder(a []string) error {
	before, err := os.Getwd()
	if err != nil {
		return err
	}
	defer os.Chdir(before)
	stop := swapping(func(odd bool) {
		if odd {
			_ = unix.Chdir(a[0])
		} else {
			_ = unix.Chdir(a[1])
		}
	})
	defer stop()
	name, opened := append([]byte(a[2]), 0), 0
	for range often(raceTries, &opened) {
		fd, errno := openRaw(unix.AT_FDCWD, name)
		if errno == 0 {
			opened++
		}
		if err := secretIn(fd, errno); err != nil {
			return err
		}
	}
	return happened(opened)
}

// raceHow opens a file for reading by an open_how to which another thread adds O_TRUNC and O_RDWR.
func raceHow(a []string) error {
	path, how := append([]byte(a[0]), 0), new(unix.OpenHow)
	stop := swapping(func(odd bool) {
		flags := uint64(unix.O_RDONLY)
		if odd {
			flags = unix.O_RDWR | unix.O_TRUNC
		}
		atomic.StoreUint64(&how.Flags, flags)
	})
	defer stop()
	folder := unix.AT_FDCWD
	for range often(raceTries, nil) {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT2, uintptr(folder), uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(how)), unsafe.Sizeof(*how), 0, 0)
		if errno != 0 {
			continue
		}
		_, err := unix.Write(int(fd), []byte("x"))
		unix.Close(int(fd))
		if err == nil {
			return errors.New("it was written")
		}
	}
	return nil
}

// raceAddress connects to a path that another thread changes. Both have the same length.
func raceAddress(a []string) error {
	address := func(path string) (raw [110]byte) {
		raw[0] = unix.AF_UNIX
		copy(raw[2:], path)
		return raw
	}
	granted, other := address(a[0]), address(a[1])
	shared := granted
	stop := swapping(func(odd bool) {
		if odd {
			copy(shared[:], granted[:])
		} else {
			copy(shared[:], other[:])
		}
	})
	defer stop()
	connected := 0
	for range often(raceTries, &connected) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&shared[0])), uintptr(len(shared)))
		unix.Close(fd)
		if errno == 0 {
			connected++
		}
	}
	return happened(connected)
}

// raceExec executes a link that is exchanged between a granted program and another one.
func raceExec(a []string) error {
	link := filepath.Join(filepath.Dir(a[2]), "race-exec")
	if err := os.Symlink(a[0], link); err != nil {
		return err
	}
	stop := swapping(func(odd bool) {
		target := a[0]
		if odd {
			target = a[1]
		}
		if unix.Symlink(target, link+".new") == nil {
			_ = unix.Rename(link+".new", link)
		}
	})
	defer stop()
	for range 150 {
		_ = exec.Command(link, "mark", a[2]).Run() // the other program makes the mark
	}
	return nil
}

// raceDescriptor changes the mode of a descriptor that another thread exchanges.
func raceDescriptor(a []string) error {
	granted, err := unix.Open(a[0], unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	other, err := unix.Open(a[1], unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	shared, err := unix.Dup(granted)
	if err != nil {
		return err
	}
	stop := swapping(func(odd bool) {
		from := granted
		if odd {
			from = other
		}
		_ = unix.Dup3(from, shared, 0)
	})
	defer stop()
	changed := 0
	for range often(raceTries/4, &changed) {
		if unix.Fchmod(shared, 0o777) == nil {
			changed++
		}
	}
	return happened(changed)
}

// cloneParent opens a path in a child that is not this process's own (CLONE_PARENT).
func cloneParent(a []string) error {
	var pair [2]int
	if err := unix.Pipe2(pair[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pair[0])
	path := append([]byte(a[0]), 0)
	runtime.LockOSThread()
	folder := unix.AT_FDCWD
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		unix.Close(pair[1])
		return errno
	}
	if pid == 0 { // system calls only: the runtime has one thread here
		_, _, got := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(folder), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY, 0, 0, 0)
		answer := [1]byte{byte(got)}
		unix.RawSyscall(unix.SYS_WRITE, uintptr(pair[1]), uintptr(unsafe.Pointer(&answer[0])), 1)
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	unix.Close(pair[1])
	var answer [1]byte
	if n, err := unix.Read(pair[0], answer[:]); n != 1 {
		return fmt.Errorf("the child said nothing: %v", err)
	}
	if answer[0] == 0 {
		return nil
	}
	return unix.Errno(answer[0])
}

// filter is a seccomp filter that returns one value for everything.
func filter(value uint32, flags uintptr) (uintptr, error) {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: value}}
	set := unix.SockFprog{Len: 1, Filter: &program[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&set)))
	if errno != 0 {
		return 0, errno
	}
	return fd, nil
}

// ownFilter puts a filter that allows everything over the guard's, and then opens a path.
func ownFilter(a []string) error {
	if _, err := filter(unix.SECCOMP_RET_ALLOW, unix.SECCOMP_FILTER_FLAG_TSYNC); err != nil {
		return fmt.Errorf("seccomp: %v", err)
	}
	return Closed(unix.Open(a[0], unix.O_RDONLY, 0))
}

// ownListener asks for notifications of its own: what the agent answers itself nobody would decide.
func ownListener([]string) error {
	_, err := filter(unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	return err
}

// interrupted makes, renames and removes folders while a timer interrupts it: each call is done once.
func interrupted(a []string) error {
	interval := unix.Itimerval{Interval: unix.Timeval{Usec: 500}, Value: unix.Timeval{Usec: 500}}
	if err := setTimer(&interval); err != nil {
		return err
	}
	defer setTimer(&unix.Itimerval{})
	for i := range 400 {
		one, two := fmt.Sprintf("%s/one%d", a[0], i), fmt.Sprintf("%s/two%d", a[0], i)
		for _, step := range []func() error{
			func() error { return unix.Mkdir(one, 0o755) },
			func() error { return unix.Rename(one, two) },
			func() error { return unix.Rmdir(two) },
			func() error { return Closed(unix.Open(one, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)) },
			func() error { return unix.Link(one, two) },
			func() error { return errors.Join(unix.Unlink(one), unix.Unlink(two)) },
		} {
			if err := step(); err != nil {
				return fmt.Errorf("round %d: %v", i, err)
			}
		}
	}
	return nil
}

func setTimer(value *unix.Itimerval) error {
	_, err := unix.Setitimer(unix.ITIMER_REAL, *value)
	return err
}

// flood opens from many threads what is granted and what is not.
func flood(a []string) error {
	var wait sync.WaitGroup
	errs := make([]error, 24)
	for i := range errs {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for range 300 {
				if err := Closed(unix.Open(a[0], unix.O_RDONLY, 0)); err != nil {
					errs[i] = fmt.Errorf("what is granted: %v", err)
				}
				if err := Closed(unix.Open(a[1], unix.O_RDONLY, 0)); err != unix.EACCES {
					errs[i] = fmt.Errorf("what is not: %v", err)
				}
			}
		}()
	}
	wait.Wait()
	return errors.Join(errs...)
}

// floodPipes opens pipes that nobody reads from more threads than a warden has workers, and then something else.
func floodPipes(a []string) error {
	var ended sync.WaitGroup
	for i := range 40 {
		path := fmt.Sprintf("%s/pipe%d", a[0], i)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return err
		}
		ended.Add(1)
		go func() {
			defer ended.Done()
			_ = Closed(unix.Open(path, unix.O_WRONLY, 0)) // waits for a reader
		}()
	}
	err := Closed(unix.Open(a[1], unix.O_RDONLY, 0))
	for i := range 40 {
		fd, openErr := unix.Open(fmt.Sprintf("%s/pipe%d", a[0], i), unix.O_RDONLY|unix.O_NONBLOCK, 0)
		err = errors.Join(err, openErr)
		if openErr == nil {
			defer unix.Close(fd)
		}
	}
	ended.Wait()
	return err
}

// received takes a descriptor from an accomplice and tries to make more of it than it is.
func received(a []string) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if err := unix.Connect(socket, &unix.SockaddrUnix{Name: a[0]}); err != nil {
		return fmt.Errorf("connect: %v", err)
	}
	room, control := make([]byte, 8), make([]byte, unix.CmsgSpace(4*8))
	_, n, _, _, err := unix.Recvmsg(socket, room, control, 0)
	if err != nil {
		return fmt.Errorf("receive: %v", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d messages: %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	name := append([]byte(a[1]), 0)
	for i, fd := range fds {
		defer unix.Close(fd)
		for _, path := range []string{fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/thread-self/fd/%d/%s", fd, a[1]), fmt.Sprintf("/dev/fd/%d", fd)} {
			got, openErr := unix.Open(path, unix.O_RDONLY, 0)
			if openErr == nil {
				if err := leaked(got); err != nil {
					return fmt.Errorf("descriptor %d by %s: %w", i, path, err)
				}
			}
			if openErr := Closed(unix.Open(path, unix.O_WRONLY, 0)); openErr == nil {
				return fmt.Errorf("descriptor %d was opened for writing by %s", i, path)
			}
		}
		if got, errno := openRaw(fd, name); errno == 0 {
			if err := leaked(int(got)); err != nil {
				return fmt.Errorf("relative to descriptor %d: %w", i, err)
			}
		}
		if unix.Fchdir(fd) == nil {
			if got, errno := openRaw(unix.AT_FDCWD, name); errno == 0 {
				if err := leaked(int(got)); err != nil {
					return fmt.Errorf("from descriptor %d as working directory: %w", i, err)
				}
			}
		}
		for _, err := range []error{unix.Fchmod(fd, 0o777), unix.Unlinkat(fd, a[1], 0), unix.Mkdirat(fd, "made", 0o755), unix.Linkat(fd, "", unix.AT_FDCWD, a[2]+"/stolen", unix.AT_EMPTY_PATH)} {
			if err == nil {
				return fmt.Errorf("something was changed through descriptor %d", i)
			}
		}
	}
	return nil
}

// limitOpens leaves no room for another descriptor, and asks for one that the warden would have to put there.
func limitOpens(a []string) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	tight := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &tight); err != nil {
		return err
	}
	err := Closed(unix.Open(a[0], unix.O_RDONLY, 0))
	return errors.Join(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit), err)
}

// forkForever starts children that open a path until it is refused here; from then on none may succeed.
func forkForever(a []string) error {
	open := func() bool {
		out, _ := exec.Command("/proc/self/exe", slices.Concat(Self, []string{"open", a[0], "r"})...).Output()
		return strings.TrimSpace(string(out)) == "ok"
	}
	for range 2000 {
		if Closed(unix.Open(a[0], unix.O_RDONLY, 0)) == nil {
			open()
			continue
		}
		for range 20 {
			if open() {
				return errors.New("a child opens what is refused to its parent")
			}
		}
		return nil
	}
	return errors.New("it was never refused")
}
