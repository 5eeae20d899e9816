// Package stage is where the demonstrations play: a scratch home with something worth stealing, a network namespace for the
// machine under attack, one more for each host that it can reach, and the pair of raypher-enclave and raypherd. It starts
// everything, watches what really arrives, and takes everything away again. It talks to Raypher only as a user would:
// through the three programs.
//
// The stage needs root. Nothing of it outlives the process: the namespaces belong to processes that end with it.
package stage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
)

// The roles in which a demonstration's program starts itself again, as its first argument.
const (
	roleInside    = "inside"    // in the namespaces of the machine under attack
	roleHost      = "host"      // as a host in a namespace of its own
	roleBystander = "bystander" // as a process that an agent should leave alone
)

// Play runs scene in fresh network and mount namespaces, by starting this program again in them. It must be the first thing
// that main does: when the program is started in another role, Play carries that role out and does not return scene's error
// twice. arguments are passed on to scene.
func Play(arguments []string, scene func(arguments []string) error) error {
	if len(arguments) > 0 {
		switch arguments[0] {
		case roleHost:
			return serveHost(os.Stdin, os.Stdout)
		case roleBystander:
			return standBy(os.Stdin, os.Stdout)
		case roleInside:
			// Children are told to end when the thread that started them ends: keep it.
			runtime.LockOSThread()
			if err := furnish(); err != nil {
				return err
			}
			return scene(arguments[1:])
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("the demonstration makes network namespaces and starts the guard: run it as root")
	}
	inside := again(append([]string{roleInside}, arguments...), syscall.CLONE_NEWNET|syscall.CLONE_NEWNS)
	inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
	var exit *exec.ExitError
	if err := inside.Run(); errors.As(err, &exit) {
		return ErrReported
	} else if err != nil {
		return fmt.Errorf("start in namespaces of its own: %w", err)
	}
	return nil
}

// ErrReported is the error of a scene that has said itself what went wrong.
var ErrReported = errors.New("the demonstration failed")

// again is a command that starts this program in a role, in new namespaces.
func again(arguments []string, namespaces uintptr) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", arguments...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// furnish makes the new namespaces usable: mounts stay private, loopback is up, packets between the hosts are forwarded.
func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := raiseLoopback(); err != nil {
		return err
	}
	// The resolver asks the attacker's name server through this machine, as resolvers on the Internet do.
	for _, setting := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		if err := os.WriteFile(setting, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("forward between the hosts: %w", err)
		}
	}
	return nil
}

func raiseLoopback() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
