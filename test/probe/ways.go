package probe

import (
	"fmt"
	"maps"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	maps.Copy(Actions, map[string]func([]string) error{
		"times": func(a []string) error { // count, path: open and close
			for range Number(a[0]) {
				fd, err := unix.Open(a[1], unix.O_RDONLY, 0)
				if err != nil {
					return err
				}
				unix.Close(fd)
			}
			return nil
		},
		"until-made": func(a []string) (err error) {
			for range 100 {
				var fd int
				if fd, err = unix.Open(a[0], unix.O_CREAT|unix.O_WRONLY, 0o600); err == nil {
					return unix.Close(fd)
				}
				time.Sleep(10 * time.Millisecond)
			}
			return err
		},
		"openat2-in": func(a []string) error { // folder, path, flags, resolve
			folder, err := unix.Open(a[0], unix.O_PATH, 0)
			if err != nil {
				return err
			}
			defer unix.Close(folder)
			return Closed(unix.Openat2(folder, a[1], &unix.OpenHow{Flags: uint64(Flags(a[2])), Resolve: uint64(Number(a[3]))}))
		},
		"past-thread": func(a []string) error { // path: relative to /proc, through the folder of this very thread
			folder, err := unix.Open("/proc", unix.O_PATH, 0)
			if err != nil {
				return err
			}
			defer unix.Close(folder)
			return Closed(unix.Openat(folder, fmt.Sprintf("self/task/%d/../../../%s", unix.Gettid(), a[0]), unix.O_RDONLY, 0))
		},
	})
}
