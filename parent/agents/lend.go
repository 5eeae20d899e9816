package agents

import (
	"fmt"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asUser calls do with the file permissions of uid: what a caller names, it must be able to read itself, or raypherd's errors
// would tell it what lies in the folders of others. do must do its file accesses on the calling goroutine.
//
// File system uid, gid and the groups belong to a thread (setfsuid(2), setgroups is made so by the C library only), and with
// the uid go CAP_DAC_OVERRIDE and its kind (capabilities(7)). A thread that could not be made root's again ends.
func asUser(uid uint32, do func() error) error {
	if uid == 0 || os.Geteuid() != 0 {
		return do()
	}
	gid, groups := groupsOf(uid)
	own, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("read as uid %d: groups: %w", uid, err)
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := become(int(uid), gid, groups)
		if err == nil {
			err = do()
		}
		if back := become(0, os.Getegid(), own); back == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// groupsOf returns the primary and the other groups of a user; nobody's where the host does not know it.
func groupsOf(uid uint32) (gid int, groups []int) {
	const nobody = 65534
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nobody, nil
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return nobody, nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return gid, nil
	}
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil {
			groups = append(groups, n)
		}
	}
	return gid, groups
}

// become sets what this thread may do with files. The order lets it work in both directions: groups need a capability that
// the file system uid does not take away.
func become(fsuid, fsgid int, groups []int) error {
	list := make([]uint32, len(groups)+1) // one more, so that there is a first
	for i, g := range groups {
		list[i] = uint32(g)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0); errno != 0 {
		return fmt.Errorf("read as uid %d: setgroups: %w", fsuid, errno)
	}
	// Both return the old value, whatever happens; asking with -1 changes nothing and tells what is set.
	_, _ = unix.SetfsgidRetGid(fsgid)
	_, _ = unix.SetfsuidRetUid(fsuid)
	if got, err := unix.SetfsgidRetGid(-1); err != nil || got != fsgid {
		return fmt.Errorf("read as uid %d: setfsgid %d was refused", fsuid, fsgid)
	}
	if got, err := unix.SetfsuidRetUid(-1); err != nil || got != fsuid {
		return fmt.Errorf("read as uid %d: setfsuid was refused", fsuid)
	}
	return nil
}
