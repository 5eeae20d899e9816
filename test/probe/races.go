package probe

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How often each race is run, while the other thread swaps all the time, and how long at most: emulated machines are slow.
const (
	raceTries = 2000
	raceTime  = 10 * time.Second
)

// often counts to n, as far as raceTime lets it, and beyond n while nothing of what is raced for has happened: on a busy machine the other
// thread may not run for long. times counts that; nil: it is not known.
func often(n int, times *int) iter.Seq[int] {
	return func(yield func(int) bool) {
		end := time.Now().Add(raceTime)
		for i := 0; i < n || times != nil && *times == 0; i++ {
			if time.Now().After(end) || !yield(i) {
				return
			}
		}
	}
}

func init() {
	Actions["race-pointer"] = racePointer
	Actions["race-link"] = raceLink
	Actions["race-folder"] = raceFolder
	Actions["race-rename"] = raceRename
	Actions["until-refused"] = func(a []string) error {
		for range 500 {
			fd, err := unix.Open(a[0], unix.O_RDONLY, 0)
			if err == unix.EACCES {
				return nil
			}
			Closed(fd, err)
			time.Sleep(10 * time.Millisecond)
		}
		return errors.New("it was never refused")
	}
	Actions["pipe"] = func([]string) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		defer w.Close()
		return Closed(unix.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), unix.O_WRONLY, 0))
	}
}

// swapping runs swap in a thread of its own until the returned function is called.
func swapping(swap func(odd bool)) (stop func()) {
	var done atomic.Bool
	ended := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(ended)
		for odd := false; !done.Load(); odd = !odd {
			swap(odd)
		}
	}()
	return func() {
		done.Store(true)
		<-ended
	}
}

// leaked reads what is open and says whether it is the secret.
func leaked(fd int) error {
	defer unix.Close(fd)
	var content [64]byte
	n, err := unix.Read(fd, content[:])
	if err == nil && string(content[:n]) == "secret" {
		return errors.New("the secret was read")
	}
	return nil
}

// racePointer opens a path whose bytes another thread changes between a granted and another path of the same length or shorter.
func racePointer(a []string) error {
	granted, secret := append([]byte(a[0]), 0), append([]byte(a[1]), 0)
	shared := make([]byte, max(len(granted), len(secret)))
	stop := swapping(func(odd bool) {
		if odd {
			copy(shared, granted)
		} else {
			copy(shared, secret)
		}
	})
	defer stop()
	opened := 0
	for range often(raceTries, &opened) {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(&shared[0])), unix.O_RDONLY, 0, 0, 0)
		if errno != 0 {
			continue
		}
		opened++
		if err := leaked(int(fd)); err != nil {
			return err
		}
	}
	return happened(opened)
}

// raceLink opens a link that another thread points elsewhere all the time.
func raceLink(a []string) error {
	link, spare := a[0], a[0]+".new"
	if err := os.Symlink(a[1], link); err != nil {
		return err
	}
	stop := swapping(func(odd bool) {
		target := a[1]
		if odd {
			target = a[2]
		}
		if unix.Symlink(target, spare) == nil {
			_ = unix.Rename(spare, link)
		}
	})
	defer stop()
	for range often(raceTries, nil) {
		fd, err := unix.Open(link, unix.O_RDONLY, 0)
		if err != nil {
			continue
		}
		if err := leaked(fd); err != nil {
			return err
		}
	}
	return nil
}

// raceRename gives a file a name whose bytes another thread changes to one that may be read. It renames, or links where it is
// told to.
func raceRename(a []string) error {
	file, other, readable := a[0], append([]byte(a[1]), 0), append([]byte(a[2]), 0)
	number := uintptr(unix.SYS_RENAMEAT2)
	if len(a) > 3 {
		number = unix.SYS_LINKAT
	}
	shared := make([]byte, len(other)) // of the same length
	stop := swapping(func(odd bool) {
		if odd {
			copy(shared, other)
		} else {
			copy(shared, readable)
		}
	})
	defer stop()
	old := append([]byte(file), 0)
	done := 0
	for range often(raceTries, nil) {
		fd, err := unix.Open(file, unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = unix.Write(fd, []byte("secret"))
		unix.Close(fd)
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall6(number, ^uintptr(99), uintptr(unsafe.Pointer(&old[0])), ^uintptr(99), uintptr(unsafe.Pointer(&shared[0])), 0, 0)
		if errno == 0 {
			done++
		}
		if fd, err := unix.Open(a[2], unix.O_RDONLY, 0); err == nil {
			if err := leaked(fd); err != nil {
				return err
			}
		}
		_ = unix.Unlink(a[1])
	}
	if done == 0 {
		return errors.New("nothing was ever renamed: the race did not happen")
	}
	return nil
}

// raceFolder creates, changes and removes below a folder that another thread exchanges with a link to outside.
func raceFolder(a []string) error {
	folder, link, outside := a[0]+"d", a[0]+"l", a[1]
	if err := errors.Join(os.Mkdir(folder, 0o755), os.Symlink(outside, link)); err != nil {
		return err
	}
	stop := swapping(func(bool) {
		_ = unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
	})
	defer stop()
	for range often(raceTries/4, nil) {
		fd, err := unix.Open(folder+"/created", unix.O_CREAT|unix.O_WRONLY, 0o644)
		Closed(fd, err)
		_ = unix.Chmod(folder+"/file", 0o777)
		_ = unix.Unlink(folder + "/file")
		_ = unix.Truncate(folder+"/a.txt", 0)
	}
	var st unix.Stat_t
	if unix.Stat(outside+"/created", &st) == nil {
		return errors.New("a file was created outside")
	}
	if err := unix.Stat(outside+"/file", &st); err != nil {
		return errors.New("a file was removed outside")
	}
	if st.Mode&0o777 == 0o777 {
		return errors.New("a mode was changed outside")
	}
	if err := unix.Stat(outside+"/a.txt", &st); err != nil || st.Size == 0 {
		return errors.New("a file was truncated outside")
	}
	return nil
}
