package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// roleTurns makes this program one side of a comparison: bench turns UNDER WORK ARGUMENTS. It does so much of the work as each line of
// its standard input says, and prints what that took.
const roleTurns = "turns"

// turn is what one turn took: from its start to its end, and of the processor in children that have ended, both in nanoseconds.
type turn struct{ wall, children time.Duration }

// takeTurns is `turns plain|notified|landlock=POLICY open PATH`, or `run PROGRAM ARGUMENTS`.
func takeTurns(arguments []string) error {
	if len(arguments) < 3 {
		return fmt.Errorf("%s: what to do, and under what, is missing", roleTurns)
	}
	under, work, rest := arguments[0], arguments[1], arguments[2:]
	var err error
	if policy, ok := strings.CutPrefix(under, "landlock="); ok {
		err = underLandlock(policy, os.Getenv("HOME"))
	} else if under == "notified" {
		err = underNotification()
	}
	if err != nil {
		return err
	}
	once := func() error { return openOnce(rest[0]) }
	if work == "run" {
		once = func() error { return runOnce(rest) }
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		count, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		took, err := oneTurn(count, once)
		if err != nil {
			return err
		}
		fmt.Println(took.wall.Nanoseconds(), took.children.Nanoseconds())
	}
	return lines.Err()
}

func oneTurn(count int, once func() error) (turn, error) {
	before, err := childrenTime()
	if err != nil {
		return turn{}, err
	}
	began := time.Now()
	for range count {
		if err := once(); err != nil {
			return turn{}, err
		}
	}
	wall := time.Since(began)
	after, err := childrenTime()
	return turn{wall, after - before}, err
}

// openOnce opens and closes a file without Go's own layers.
func openOnce(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return unix.Close(fd)
}

func runOnce(words []string) error {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// childrenTime is the processor time of this program's children that have ended.
func childrenTime() (time.Duration, error) {
	var usage syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), err
}
