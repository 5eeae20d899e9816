package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capableChecks are what only root with its capabilities could do: the agent keeps them all, so that not lsm/capable refuses but the hook
// behind it.
var capableChecks = []check{
	{"a bind mount", "lsm/sb_mount", eperm, func() error { return unix.Mount("/tmp/w", "/tmp/out", "", unix.MS_BIND, "") }, read("file")},
	{"a mount that is moved", "lsm/move_mount", eperm, moveMount, openTree},
	{"an unmount", "lsm/sb_umount", eperm, func() error { return unix.Unmount("/tmp", unix.MNT_DETACH) }, nil},
	{"another root", "lsm/sb_pivotroot", eperm, func() error { return unix.PivotRoot("/tmp", "/tmp/w") }, nil},
	{"a counter of the processor", "lsm/perf_event_open", eperm, perf, nil},
	{"a module from a file", "lsm/kernel_read_file", eperm, moduleFrom("/tmp/w/file"), read("file")},
	{"a module from memory", "lsm/kernel_read_file", eperm, func() error {
		image := make([]byte, 4096)
		return calling(unix.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&image[0])), uintptr(len(image)), uintptr(unsafe.Pointer(&image[0])))()
	}, nil},
	{"a chroot", "lsm/path_chroot", eperm, func() error { return unix.Chroot("/tmp/w") }, func() error { return unix.Chdir("/tmp/w") }},
}

// lateChecks are for both users, and refused by another hook before the kernel named.
var lateChecks = []check{
	{"an access list", sinceLinux(6, 2, "lsm/inode_set_acl", "lsm/inode_setxattr"), eacces, setACL("a.key"), all(open(hole("acl"), unix.O_CREAT|unix.O_WRONLY), setACL(hole("acl")))},
	{"removing an access list", sinceLinux(6, 2, "lsm/inode_remove_acl", "lsm/inode_removexattr"), eacces, removeACL("a.key"), removeACL(hole("acl"))},
}

// sinceLinux is one of two words, by the kernel's version.
func sinceLinux(major, minor int, since, before string) string {
	var u unix.Utsname
	var a, b int
	if unix.Uname(&u) != nil {
		return before
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); err != nil || a < major || a == major && b < minor {
		return before
	}
	return since
}

func openTree() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/tmp/w", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func moveMount() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/tmp/w", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %v", err)
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, "/tmp/out", unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func moduleFrom(path string) func() error {
	return func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open: %v", err)
		}
		defer unix.Close(fd)
		return unix.FinitModule(fd, "", 0)
	}
}

// accessList is struct posix_acl_xattr_header with the three entries that each list has (include/uapi/linux/posix_acl_xattr.h).
func accessList() []byte {
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, tag := range []uint16{0x01, 0x04, 0x20} {
		list = binary.LittleEndian.AppendUint16(list, tag)
		list = binary.LittleEndian.AppendUint16(list, 6)
		list = binary.LittleEndian.AppendUint32(list, 0xffffffff)
	}
	return list
}

const accessListName = "system.posix_acl_access"

func setACL(path string) func() error {
	return func() error { return unix.Setxattr(path, accessListName, accessList(), 0) }
}

func removeACL(path string) func() error {
	return func() error { return unix.Removexattr(path, accessListName) }
}

// polledRing asks for an io_uring with a thread of the kernel.
func polledRing() error {
	parameters := make([]byte, 120)                     // struct io_uring_params
	binary.NativeEndian.PutUint32(parameters[8:], 1<<1) // flags: IORING_SETUP_SQPOLL
	return calling(unix.SYS_IO_URING_SETUP, 2, uintptr(unsafe.Pointer(&parameters[0])))()
}

// datagram sends to a socket that has a path.
func datagram(path string) func() error {
	return func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %v", err)
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrUnix{Name: path})
	}
}

// loaded maps a file for reading as the dynamic loader does.
func loaded(path string) func() error {
	return func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open: %v", err)
		}
		defer unix.Close(fd)
		m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_DENYWRITE)
		if err == nil {
			err = unix.Munmap(m)
		}
		return err
	}
}

// readMapping maps a file for reading, as any program does.
func readMapping(path string) func() error {
	return func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open: %v", err)
		}
		defer unix.Close(fd)
		m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
		if err == nil {
			err = unix.Munmap(m)
		}
		return err
	}
}

// sharedCode maps memory of its own for execution beside a mapping for writing, as compilers at run time do.
func sharedCode() error {
	fd, err := memory()
	if err != nil {
		return fmt.Errorf("memory: %v", err)
	}
	defer unix.Close(fd)
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED)
	if err == nil {
		err = unix.Munmap(m)
	}
	return err
}

// inI386 asks for a terminal's input by the system call of 32 bits, in a process of its own: number 54 is ioctl there.
func inI386(request uint32) func() error {
	return func() error {
		out, err := exec.Command(program, "i386", fmt.Sprint(request)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %s", err, out)
		}
		var number int
		if _, err := fmt.Sscan(strings.TrimSpace(string(out)), &number); err != nil {
			return fmt.Errorf("%q", out)
		}
		if number != 0 {
			return syscall.Errno(number)
		}
		return nil
	}
}

// i386 makes ioctl(3, request, page) by int 0x80 and prints its errno.
func i386(request uint32) error {
	const map32Bit = 0x40
	fd, err := unix.Open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON|map32Bit)
	if err != nil {
		return err
	}
	result := uint32(uintptr(unsafe.Pointer(&page[2048])))
	// push %rbx; mov $54, %eax; mov $fd, %ebx; mov $request, %ecx; mov $result, %edx; int $0x80; mov %eax, (%rdx); pop %rbx; ret
	code := []byte{0x53, 0xb8, 54, 0, 0, 0, 0xbb}
	code = binary.LittleEndian.AppendUint32(code, uint32(fd))
	code = binary.LittleEndian.AppendUint32(append(code, 0xb9), request)
	code = binary.LittleEndian.AppendUint32(append(code, 0xba), result)
	code = append(code, 0xcd, 0x80, 0x89, 0x02, 0x5b, 0xc3)
	copy(page, code)
	entry := unsafe.Pointer(&page[0])
	function := &entry // a func value points to the place of its code
	(*(*func())(unsafe.Pointer(&function)))()
	_, err = fmt.Fprintln(os.Stdout, -int32(binary.LittleEndian.Uint32(page[2048:])))
	return err
}
