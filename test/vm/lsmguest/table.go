package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	eacces = syscall.EACCES
	eperm  = syscall.EPERM
)

// checks are one line for each hook and way. They run in /tmp/w.
var checks = []check{
	{"open what a pattern denies", "lsm/file_open", eacces, read("a.key"), read("file")},
	{"open below a folder", "lsm/file_open", eacces, read("folder/b.key"), nil},
	{"open what no rule names", "lsm/file_open", eacces, read("/tmp/beside"), nil},
	{"write what may be read", "lsm/file_open", eacces, open("/bin/denied", unix.O_WRONLY), read(program)},
	{"read what may be written", "lsm/file_open", eacces, read("/tmp/out/file"), open("/tmp/out/file", unix.O_WRONLY)},
	{"cut by opening for reading", "lsm/file_open", eacces, open("/bin/denied", unix.O_RDONLY|unix.O_TRUNC), open("other", unix.O_RDONLY|unix.O_TRUNC)},
	{"through a link of one's own", "lsm/file_open", eacces, all(func() error { _ = os.Remove(hole("link")); return os.Symlink("/tmp/beside", hole("link")) },
		func() error { return read(hole("link"))() }), nil},
	{"again by /proc/self/fd", "lsm/file_open", eacces, func() error {
		fd, err := unix.Open("/tmp/beside", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return read("/proc/self/fd/" + itoa(fd))()
	}, read("/proc/self/status")},
	{"what is closed", "lsm/file_open", eacces, read("/closed/in/file"), nil},
	{"a long path", "lsm/file_open", eacces, deep(4600), deep(3900)},
	{"another's folder of procfs", "lsm/file_open", eacces, read("/proc/1/status"), read("/proc/self/status")},

	{"create", "lsm/path_mknod", eacces, open("/tmp/new", unix.O_CREAT|unix.O_WRONLY), open(hole("new"), unix.O_CREAT|unix.O_WRONLY)},
	{"create a denied name", "lsm/path_mknod", eacces, open("new.key", unix.O_CREAT|unix.O_WRONLY), nil},
	{"a device", "lsm/path_mknod", eperm, func() error { return unix.Mknod(hole("disk"), unix.S_IFBLK|0o600, 0x0700) },
		func() error { _ = os.Remove(hole("fifo")); return unix.Mknod(hole("fifo"), unix.S_IFIFO|0o600, 0) }},
	{"a folder", "lsm/path_mkdir", eacces, func() error { return os.Mkdir("/tmp/dir", 0o755) }, func() error { return os.Mkdir(hole("dir"), 0o755) }},
	{"remove a folder", "lsm/path_rmdir", eacces, func() error { return unix.Rmdir("/sealed") }, func() error { return unix.Rmdir(hole("dir")) }},
	{"a symbolic link", "lsm/path_symlink", eacces, func() error { return os.Symlink("x", "/tmp/symlink") }, nil},
	{"remove", "lsm/path_unlink", eacces, func() error { return os.Remove("a.key") }, func() error { return os.Remove(hole("new")) }},
	{"remove what is sealed", "lsm/path_unlink", eacces, func() error { return os.Remove("/sealed/file") }, nil},
	{"link to a wider place", "lsm/path_link", syscall.EXDEV, func() error { return os.Link("/tmp/out/file", hole("wide")) },
		func() error { _ = os.Remove(hole("alias")); return os.Link(hole("link"), hole("alias")) }},
	{"link what is denied", "lsm/path_link", syscall.EXDEV, func() error { return os.Link("a.key", hole("plain")) }, nil},
	{"rename to a wider place", "lsm/path_rename", syscall.EXDEV, func() error { return os.Rename("/tmp/out/file", hole("wide")) },
		func() error { return os.Rename(hole("alias"), hole("alias2")) }},
	{"rename what is denied", "lsm/path_rename", eacces, func() error { return os.Rename("a.key", hole("plain")) }, nil},
	{"rename a folder to a wider place", "lsm/path_rename", syscall.EXDEV, func() error { return os.Rename("/tmp/out/folder", hole("folder")) }, all(
		func() error { return os.MkdirAll(hole("a")+"/b", 0o755) }, func() error { return os.Rename(hole("a")+"/b", hole("a")+"/c") })},
	{"rename a folder with a closed file", "lsm/path_rename", eacces, func() error { return os.Rename("/closed", "/closed-moved") }, nil},
	{"rename a folder far above a closed file", "lsm/path_rename", eacces, func() error { return os.Rename("/deep/one", "/deep/moved") },
		all(func() error { return os.Rename("/deep/beside", "/deep/moved") }, func() error { return os.Rename("/deep/moved", "/deep/beside") })},
	{"rename a folder far above a sealed one", "lsm/path_rename", eacces, func() error { return os.Rename("/deep/three", "/deep/moved") }, nil},
	{"exchange a folder with one far above a closed file", "lsm/path_rename", eacces, func() error {
		return unix.Renameat2(unix.AT_FDCWD, "/deep/beside", unix.AT_FDCWD, "/deep/one", unix.RENAME_EXCHANGE)
	}, func() error {
		return unix.Renameat2(unix.AT_FDCWD, "/deep/beside", unix.AT_FDCWD, "/deep/other", unix.RENAME_EXCHANGE)
	}},
	{"exchange", "lsm/path_rename", syscall.EXDEV, func() error {
		return unix.Renameat2(unix.AT_FDCWD, "other", unix.AT_FDCWD, "/tmp/out/file", unix.RENAME_EXCHANGE)
	}, nil},
	{"mode", "lsm/path_chmod", eacces, func() error { return os.Chmod("a.key", 0o600) }, all(open(hole("mode"), unix.O_CREAT|unix.O_WRONLY), func() error { return os.Chmod(hole("mode"), 0o600) })},
	{"set-user-id", "lsm/path_chmod", eperm, func() error { return unix.Chmod(hole("mode"), 0o4755) }, nil},
	{"owner", "lsm/path_chown", eacces, func() error { return os.Chown("a.key", os.Getuid(), os.Getgid()) }, func() error { return os.Chown(hole("mode"), os.Getuid(), os.Getgid()) }},
	{"truncate", "lsm/path_truncate", eacces, func() error { return os.Truncate("a.key", 0) }, func() error { return os.Truncate(hole("mode"), 0) }},
	{"times", "lsm/inode_setattr", eacces, times("a.key"), func() error { return times(hole("mode"))() }},
	{"attribute", "lsm/inode_setxattr", eacces, func() error { return unix.Setxattr("a.key", "user.x", []byte("y"), 0) },
		either(func() error { return unix.Setxattr(hole("mode"), "user.x", []byte("y"), 0) }, unix.EOPNOTSUPP)},
	{"remove an attribute", "lsm/inode_removexattr", eacces, func() error { return unix.Removexattr("a.key", "user.x") },
		either(func() error { return unix.Removexattr(hole("mode"), "user.x") }, unix.EOPNOTSUPP, unix.ENODATA)},

	{"a program that no rule names", "lsm/file_open", eacces, run("/bin/denied"), run(program)},
	{"a copy of a program", "lsm/file_open", eacces, run("/tmp/w/copy"), nil},
	{"a script", "lsm/file_open", eacces, run("/tmp/w/script"), nil},
	{"a program in memory", "lsm/bprm_check_security", eacces, inMemory(func(fd int) error { return run("/proc/self/fd/" + itoa(fd))() }), nil},
	{"a program with another content", "lsm/bprm_check_security", eacces, run("/bin/wrong"), run("/bin/right")},
	{"map a file for execution", "lsm/mmap_file", eacces, mapping("/tmp/w/copy"), mapping(libraryPath)},
	{"map memory for execution", "lsm/mmap_file", eacces, inMemory(mapExec), anonymous},
	{"make a mapping executable", "lsm/file_mprotect", eacces, protectLater, nil},
	{"map a file for reading as the loader does", "lsm/mmap_file", eacces, loaded("/tmp/w/file"), all(loaded(libraryPath), readMapping("/tmp/w/file"))},
	{"map a program as the loader does", "lsm/mmap_file", eacces, loaded("/bin/denied"), loaded("/tmp/elsewhere/library.so.1")},
	{"map a program for execution", "lsm/mmap_file", eacces, mapping("/bin/denied"), sharedCode},
	{"map a program with a hash", "lsm/mmap_file", eacces, mapping("/bin/right"), nil},

	{"a socket by path", "lsm/unix_stream_connect", eacces, dial("unix", otherSocket), dial("unix", grantedSocket)},
	{"a socket by name", "lsm/unix_stream_connect", eperm, dial("unix", outsideName), ownSocket},
	{"a datagram", "lsm/unix_may_send", eacces, datagram(otherDatagrams), datagram(grantedDatagrams)},
	{"a signal", "lsm/task_kill", eperm, func() error { return unix.Kill(outsider, 0) }, signalChild},
	{"a debugger", "lsm/ptrace_access_check", eperm, func() error { return calling(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(outsider))() }, nil},
	{"another's priority", "lsm/task_setscheduler", eperm, func() error { return unix.Setpriority(unix.PRIO_PROCESS, outsider, 5) }, func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, 1) }},
	{"a descriptor from outside", "lsm/file_receive", 0, nil, received},

	{"another cgroup", "lsm/file_open", eacces, open("/sys/fs/cgroup/cgroup.procs", unix.O_WRONLY), nil},
	{"another cgroup, inherited", "lsm/file_permission", eacces, func() error { _, err := unix.Write(3, []byte("0")); return err }, nil},
	{"a child in another cgroup", "lsm/task_alloc", eperm, intoCgroup, nil},
	{"terminal input", "lsm/file_ioctl", eperm, func() error {
		fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.IoctlSetPointerInt(fd, unix.TIOCSTI, 'x')
	}, open("/dev/null", unix.O_RDWR)},
	{"terminal input by a call of 32 bits", "lsm/file_ioctl", eperm, inI386(unix.TIOCSTI), either(inI386(unix.TCGETS), unix.ENOTTY)},
	{"io_uring with a thread of the kernel", "lsm/uring_sqpoll", eperm, polledRing, nil},
	{"io_uring", "lsm/inode_init_security_anon", eperm, ring, nil},
	{"userfaultfd", "lsm/inode_init_security_anon", eperm, calling(unix.SYS_USERFAULTFD, 1), nil},
	{"bpf", "lsm/bpf", eperm, calling(unix.SYS_BPF, unix.BPF_OBJ_GET, 0, 0), nil},
	{"a key", "lsm/key_permission", eperm, func() error { _, err := unix.AddKey("user", "x", []byte("y"), -2); return err }, nil},
	{"a user namespace", "lsm/userns_create", eperm, clone(syscall.CLONE_NEWUSER), nil},
}

// rootChecks are what only root could do at all.
var rootChecks = []check{
	{"chroot", "lsm/capable", eperm, func() error { return unix.Chroot("/tmp/w") }, nil},
	{"mount", "lsm/capable", eperm, func() error { return unix.Mount("/tmp/w", "/tmp/out", "", unix.MS_BIND, "") }, nil},
	{"a mount namespace", "lsm/capable", eperm, clone(syscall.CLONE_NEWNS), nil},
	{"a module", "lsm/capable", eperm, calling(unix.SYS_INIT_MODULE, 0, 0, 0), nil},
	{"reboot", "lsm/capable", eperm, calling(unix.SYS_REBOOT, 0xfee1dead, 672274793, 0x89abcdef), nil},
	{"perf", "lsm/capable", eacces, perf, nil},
	{"a pin of the guard", "lsm/path_unlink", eacces, func() error { return os.Remove(pins + "/link_on_file_open") }, nil},
	{"open by handle", "lsm/capable", eperm, byHandle, nil},
}

func init() {
	checks = append(checks, lateChecks...)
	if isRoot() { // at the end: a user has those before them

		checks = append(checks, rootChecks...)
	}
}
