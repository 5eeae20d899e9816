package warden

import (
	"errors"
	"fmt"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Harden makes this process what a warden must be: nobody may look into it or trace it, and no signal of the terminal ends it.
// It checks that it was started without capabilities, as package launch does. It is the first thing that a warden does.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the warden undumpable: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if sets[0].Permitted|sets[1].Permitted != 0 {
		return errors.New("the warden was started with capabilities")
	}
	// A broken pipe on the output must not end the agent's guard, nor may what the terminal sends.
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	return nil
}
