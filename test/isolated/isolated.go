// Package isolated runs the tests of a package that starts the product: with its programs built from this tree, and in network and mount
// namespaces of the tests' own, so that nothing of the machine is touched.
package isolated

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

// insideVariable is set for the test process that runs in its own namespaces, to the folder of the programs.
const insideVariable = "RAYPHER_TEST_INSIDE"

// Run is for TestMain: it builds programs (name of the program -> folder below cmd) and runs the tests in namespaces of their own, by starting
// the test program again; programs is then their folder. It returns the exit status. Without root tests run as they are, and each skips itself
// with NeedRoot.
func Run(m *testing.M, commands map[string]string, programs *string) int {
	code, err := enter(m, commands, programs)
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolated tests:", err)
		return 1
	}
	return code
}

// NeedRoot skips a test without root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes namespaces and starts the guard")
	}
}

func enter(m *testing.M, commands map[string]string, programs *string) (int, error) {
	if os.Geteuid() != 0 {
		return m.Run(), nil
	}
	if *programs = os.Getenv(insideVariable); *programs != "" {
		if err := furnish(); err != nil {
			return 1, err
		}
		return m.Run(), nil
	}
	built, err := build(commands)
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

// build puts the programs into a new folder that every user can read. Tests run in the folder of their package, test/NAME.
func build(commands map[string]string) (string, error) {
	dir, err := os.MkdirTemp("", "raypher-test-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	for name, from := range commands {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../../cmd/"+from)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", errors.Join(fmt.Errorf("build %s: %w\n%s", name, err, out), os.RemoveAll(dir))
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
