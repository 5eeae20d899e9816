package launch

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/instance"
)

// privateTimeout is how long a private pair may take to come up: it makes its keys first.
const privateTimeout = 20 * time.Second

// findDaemon returns the socket of the raypherd that serves this run. Where none does, root gets a private pair; the note says so
// when one was expected. One that was named and does not answer is an error: its ceiling was to hold.
func findDaemon() (socket, note string, err error) {
	paths, err := instance.FromEnvironment()
	if err != nil {
		return "", "", err
	}
	err = instance.Reach(paths.Socket)
	switch {
	case err == nil:
		return paths.Socket, "", nil
	case errors.Is(err, unix.EACCES):
		return "", "", fmt.Errorf("raypherd at %s: %w: %s", paths.Socket, err, instance.WhoMayAsk(paths.Socket))
	case os.Getenv(instance.RunVariable) != "":
		return "", "", fmt.Errorf("no raypherd at %s, which %s names: %w: start it, or unset %s", paths.Socket, instance.RunVariable, err, instance.RunVariable)
	case os.Geteuid() != 0:
		return "", "", fmt.Errorf("no raypherd at %s: %w: start it, or run as root", paths.Socket, err)
	}
	if expected(paths, err) {
		note = fmt.Sprintf("no raypherd answers at %s (%v): a private pair serves this run, under a ceiling that permits everything", paths.Socket, err)
	}
	socket, err = startPrivate()
	return socket, note, err
}

// expected says whether a raypherd was to be there, by how it could not be reached. Where one has served before, its operator's
// ceiling may be what a run was meant to stay within.
func expected(paths instance.Paths, err error) bool {
	_, served := os.Stat(paths.Journal)
	return !errors.Is(err, unix.ENOENT) || served == nil
}

// startPrivate starts raypherd for this run alone. It ends with the run.
func startPrivate() (socket string, err error) {
	binary, err := FindBinary("raypherd")
	if err != nil {
		return "", err
	}
	var random [6]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	paths, err := instance.Private(id)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(paths.State, 0o755); err != nil {
		return "", fmt.Errorf("private raypherd: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(paths.State, "raypherd.log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return "", fmt.Errorf("private raypherd: %w", err)
	}
	defer log.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()
	pid, err := command{
		path: binary, argv: []string{binary, "--private", id}, env: os.Environ(),
		files: []int{int(null.Fd()), int(null.Fd()), int(log.Fd())},
	}.start()
	if err != nil {
		return "", err
	}
	if err := waitFor(paths.Socket, pid); err != nil {
		words, _ := os.ReadFile(log.Name())
		return "", fmt.Errorf("private raypherd: %w: %s", err, lastLine(string(words)))
	}
	return paths.Socket, nil
}

// waitFor waits until the socket answers, or the process has ended.
func waitFor(socket string, pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.New("it ended at once")
	}
	defer unix.Close(pidfd)
	for deadline := time.Now().Add(privateTimeout); ; {
		err := instance.Reach(socket)
		if err == nil {
			return nil
		}
		polled := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(polled, 2); n > 0 {
			return errors.New("it ended")
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it did not come up within %v: %w", privateTimeout, err)
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// FindBinary looks for another program of Raypher: beside this one, then in PATH.
func FindBinary(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if unix.Access(beside, unix.X_OK) == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not beside raypher and not in PATH: install it", name)
	}
	return path, nil
}
