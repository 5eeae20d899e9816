package launch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/test/probe"
)

func init() {
	probe.Add(map[string]func([]string) error{
		"appenders":    appenders,
		"child-killed": childKilled,
		"alarmed":      alarmed,
	})
}

// appenders adds a byte to each of several files (prefix, number of files), by several threads for each at once (number).
func appenders(a []string) error {
	files, each := probe.Number(a[1]), probe.Number(a[2])
	var wait sync.WaitGroup
	failed := make([]error, files*each)
	for i := range failed {
		wait.Go(func() {
			runtime.LockOSThread()
			fd, err := unix.Open(fmt.Sprint(a[0], i%files), unix.O_WRONLY|unix.O_APPEND, 0)
			if err == nil {
				_, err = unix.Write(fd, []byte("x"))
				unix.Close(fd)
			}
			failed[i] = err
		})
	}
	wait.Wait()
	return errors.Join(failed...)
}

// childKilled has a child do an action and expects that it is killed over that.
func childKilled(a []string) error {
	child := exec.Command("/proc/self/exe", roleProbe)
	child.Stdin = strings.NewReader(`[["` + strings.Join(a, `", "`) + `"]]`)
	err := child.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys() != nil && !exit.Exited() {
		return nil
	}
	return fmt.Errorf("the child ended with %v", err)
}

// alarmed does an action while a signal comes each millisecond.
func alarmed(a []string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGALRM)
	defer signal.Stop(signals)
	every := unix.Itimerval{Interval: unix.Timeval{Usec: 1000}, Value: unix.Timeval{Usec: 1000}}
	if _, err := unix.Setitimer(unix.ITIMER_REAL, every); err != nil {
		return err
	}
	defer unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{})
	return probe.Do(a)
}
