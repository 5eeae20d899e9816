// Package fleet tests a host with its controller as an operator meets them: raypher-controller, raypherd and raypher-enclave, built from this
// tree and started as processes, in network and mount namespaces of the test's own. It needs root and says so when it is skipped.
package fleet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// programs is the folder with the built programs.
var programs string

// insideVariable is set for the test process that runs in its own namespaces.
const insideVariable = "RAYPHER_FLEET_INSIDE"

func TestMain(m *testing.M) {
	code, err := enter(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		code = 1
	}
	os.Exit(code)
}

// enter builds the programs and runs the tests in namespaces of their own, by starting the test program again.
func enter(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return m.Run(), nil // each test skips, in words
	}
	if programs = os.Getenv(insideVariable); programs != "" {
		if err := furnish(); err != nil {
			return 1, err
		}
		return m.Run(), nil
	}
	built, err := build()
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(built)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"="+built)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	} else if err != nil {
		return 1, err
	}
	return 0, nil
}

// build puts the programs into a new folder that every user can read.
func build() (string, error) {
	dir, err := os.MkdirTemp("", "raypher-fleet-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	for name, from := range map[string]string{
		"raypher": "raypher-run", "raypher-cli": "raypher", "raypherd": "raypherd", "raypher-enclave": "raypher-enclave", "raypher-controller": "raypher-controller",
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../../cmd/"+from)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
}

func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(loopback)
}
