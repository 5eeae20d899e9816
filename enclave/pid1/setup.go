package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mounts of the first process. The root is the ramdisk itself, in memory.
var mounts = []struct {
	kind, target string
	flags        uintptr
}{
	{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"proc", "/proc", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
	{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
}

// SetUp mounts /dev, /proc and /sys, loads the modules in a folder, if it is there, and brings the loopback device up.
func SetUp(modules string) error {
	unix.Umask(0o022) // kernels start their first process with 0
	for _, m := range mounts {
		// Kernels can mount /dev by themselves (CONFIG_DEVTMPFS_MOUNT).
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, ""); err != nil && (m.target != "/dev" || !errors.Is(err, unix.EBUSY)) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := loadModules(modules); err != nil {
		return err
	}
	return loopbackUp()
}

// loadModules loads each file, in the order of their names.
func loadModules(folder string) error {
	files, err := os.ReadDir(folder) // sorted
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	for _, f := range files {
		if err := loadModule(filepath.Join(folder, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("kernel module: %w", err)
	}
	defer file.Close()
	err = unix.FinitModule(int(file.Fd()), "", 0)
	switch {
	case errors.Is(err, unix.ENOENT): // the file is there (kernel/module/main.c, resolve_symbol)
		return fmt.Errorf("load %s: unknown symbol: put the modules that it needs before it", path)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("load %s: %w: it is not for this kernel", path, err)
	case err != nil:
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// loopbackUp does what `ip link set lo up` does. An enclave has no other network device.
func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
