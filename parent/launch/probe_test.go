package launch

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/test/probe"
)

// action is one thing that the probe does inside.
type action = probe.Action

// actionTable takes the actions that tests here alone have.
var actionTable = probe.Actions

func init() { probe.Self = []string{roleProbe} }

// greet accepts connections and says hello.
func greet(listener net.Listener) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		c.Write([]byte("hello"))
		c.Close()
	}
}

func errnoOrNil(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

func withFile(path string, use func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	return use(fd)
}
