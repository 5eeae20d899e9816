// Command guest is everything that runs in the virtual machine of package vm but the programs under test: the first process,
// which plays the cases and switches the machine off, and the program that is governed. TestGuests starts it; nobody else should.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/agents"
)

// backend is the one that the machine's command line asks for.
func backend() string {
	if asked("raypher.backend=" + agents.LSM) {
		return agents.LSM
	}
	return agents.Broker
}

// asked reports whether the machine's command line has a word.
func asked(word string) bool {
	line, err := os.ReadFile("/proc/cmdline")
	return err == nil && slices.Contains(strings.Fields(string(line)), word)
}

func main() {
	switch {
	case os.Getpid() == 1:
		play()
	case len(os.Args) > 1:
		os.Exit(govern(os.Args[1], os.Args[2:]))
	}
	os.Exit(2)
}

// play runs the cases and ends the machine.
func play() {
	m := &machine{}
	if err := m.furnish(); err != nil {
		m.fail("furnish: %v", err)
	} else if _, err := os.Stat(modules); err == nil {
		m.overVsock()
	} else if m.backend = backend(); asked("raypher.speed") {
		m.speed()
	} else if asked("raypher.table") {
		m.table()
	} else if asked("raypher.bypass") {
		m.bypass()
	} else if m.backend == agents.LSM {
		m.casesHeld()
	} else {
		m.cases()
	}
	if m.failed {
		fmt.Println("GUEST FAIL")
	} else {
		fmt.Println("GUEST PASS")
	}
	unix.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // the first process must not end
}
