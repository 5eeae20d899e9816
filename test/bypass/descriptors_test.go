package bypass

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/test/conformance"
)

// accomplice sends descriptors to whoever connects to the granted socket.
func (w *world) accomplice(fds ...int) {
	w.t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.path("sock/yes"), Net: "unix"})
	w.must(err)
	w.t.Cleanup(func() { listener.Close() })
	go func() {
		c, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		_, _, _ = c.WriteMsgUnix([]byte("x"), unix.UnixRights(fds...), nil) // the agent says whether it came
	}()
}

// TestDescriptorsFromOutside: names and folders that an accomplice outside sends lead nowhere that the policy does not grant.
func TestDescriptorsFromOutside(t *testing.T) {
	asUsers(t, func(w *world) {
		var fds []int
		for _, one := range []struct {
			path  string
			flags int
		}{{"no/file", unix.O_PATH}, {"no", unix.O_PATH}, {"no", unix.O_RDONLY | unix.O_DIRECTORY}, {"", unix.O_RDONLY | unix.O_DIRECTORY}} {
			fd, err := unix.Open(w.path(one.path), one.flags|unix.O_CLOEXEC, 0)
			w.must(err)
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
		w.accomplice(fds...)
		w.expect(narrow, "received FOLDER/sock/yes file FOLDER/w")
		w.unchanged()
	})
}

// TestDescriptorsBetweenAgents: nor do those that the agent sends to itself.
func TestDescriptorsBetweenAgents(t *testing.T) {
	asUsers(t, func(w *world) {
		w.expect(narrow, "pass-descriptor FOLDER/no/file r => EACCES", "pass-descriptor FOLDER/r/file w => EACCES", "pass-descriptor FOLDER/r/file r")
		w.unchanged()
	})
}

// TestOpenFilesFromOutside is what the broker does not hold: a file that an accomplice outside opened and sends is its own to use. Nothing
// else becomes of it: it cannot be opened anew for more than the policy grants. Under lsm it does not come.
func TestOpenFilesFromOutside(t *testing.T) {
	asUsers(t, func(w *world) {
		file, err := os.Open(w.path("no/file"))
		w.must(err)
		defer file.Close()
		w.accomplice(int(file.Fd()))
		want := "ok"
		if w.Backend == conformance.LSM {
			want = "0 messages: <nil>"
		}
		w.expect(narrow, "received FOLDER/sock/yes file FOLDER/w => "+want)
		w.unchanged()
	})
}
