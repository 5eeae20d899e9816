package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The compiled tests of test/bypass, and what of them is left out here: those of the network, which programs of BPF LSM do not hold.
const (
	bypassProgram = "/bin/bypass.test"
	notHere       = "^Test(Wire|Isolated)"
)

// bypassLimit bounds all of them together; they share one pair.
const bypassLimit = 20 * time.Minute

// bypass plays the programs that try to get out, with the tests of test/bypass themselves.
func (m *machine) bypass() {
	err := errors.Join(os.MkdirAll("/var/tmp", 0o1777), os.Mkdir("/sys/fs/bpf", 0o755), yama(0))
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	if err = errors.Join(err, unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "")); err != nil {
		m.fail("bypass: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), bypassLimit)
	defer cancel()
	tests := exec.CommandContext(ctx, bypassProgram, "-test.v", "-test.timeout="+bypassLimit.String(), "-test.skip="+notHere)
	tests.Dir = "/tmp"
	// The tests find the programs here, in namespaces of their own that are the machine's.
	tests.Env = []string{"PATH=/bin", "HOME=/root", "TMPDIR=/var/tmp", "RAYPHER_GOVERNED_INSIDE=/bin", "RAYPHER_GOVERNED_BACKEND=" + m.backend}
	out, err := tests.StdoutPipe()
	if err == nil {
		tests.Stderr = tests.Stdout
		err = tests.Start()
	}
	if err != nil {
		m.fail("bypass: %v", err)
		return
	}
	passed := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		if result := strings.TrimSpace(line); strings.HasPrefix(result, "--- ") {
			line = "GUEST " + result
			if strings.HasPrefix(result, "--- PASS") && !strings.Contains(result, "/") {
				passed++
			}
		}
		fmt.Println(line)
	}
	if err := tests.Wait(); err != nil {
		m.fail("bypass: %v", err)
	}
	if passed < 15 {
		m.fail("bypass: %d tests passed", passed)
	}
}
