package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/namespaces"
	"github.com/raypher/raypher/policy"
)

// The oldest kernel that has all that the guard needs (cgroup.kill 5.14, seccomp WAIT_KILLABLE_RECV 5.19, the verifier that
// the network programs were written for 6.1).
const (
	kernelMajor = 6
	kernelMinor = 1
)

// checkHost says what keeps raypherd from running here at all.
func checkHost() error {
	if os.Geteuid() != 0 {
		return errors.New("raypherd guards other processes and must run as root: start it with sudo, or as a service")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	return checkKernel(unix.ByteSliceToString(u.Release[:]))
}

func checkKernel(release string) error {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) >= 2 {
		major, err1 := strconv.Atoi(parts[0])
		minor, err2 := strconv.Atoi(strings.FieldsFunc(parts[1]+" ", func(r rune) bool { return r < '0' || r > '9' })[0])
		if err1 == nil && err2 == nil && (major > kernelMajor || major == kernelMajor && minor >= kernelMinor) {
			return nil
		}
	}
	return fmt.Errorf("this is Linux %s: raypherd needs %d.%d or newer (`raypher doctor` lists what is missing)", release, kernelMajor, kernelMinor)
}

// makeFolders makes what is missing of the instance's folders. The enclave's own are made by the enclave.
func makeFolders(p instance.Paths) error {
	for _, folder := range []struct {
		path string
		mode fs.FileMode
	}{
		{p.Run, 0o755}, {p.State, 0o755}, {p.Records, 0o700}, {p.Keys, 0o700},
	} {
		if err := os.MkdirAll(folder.path, folder.mode); err != nil {
			return fmt.Errorf("folder of the daemon: %w", err)
		}
		// The mask of the calling process does not apply to what others must be able to reach.
		if err := os.Chmod(folder.path, folder.mode); err != nil {
			return fmt.Errorf("folder of the daemon: %w", err)
		}
	}
	// What RAYPHER_VISA names: the warden answers an agent that opens it; anybody else finds it empty.
	f, err := os.OpenFile(p.Visa, os.O_CREATE|os.O_WRONLY, 0o444)
	if err != nil {
		return fmt.Errorf("placeholder of the visa: %w", err)
	}
	return errors.Join(f.Chmod(0o444), f.Close())
}

// errRunning says that the lock is held.
var errRunning = errors.New("another raypherd serves this instance")

// lock makes sure that this is the only raypherd of the instance. The kernel lets go of it when the process ends.
func lock(p instance.Paths) (*os.File, error) {
	f, err := os.OpenFile(p.Lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock of the daemon: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		pid := make([]byte, 16)
		n, _ := f.ReadAt(pid, 0)
		f.Close()
		return nil, fmt.Errorf("%w (process %s, %s): stop it first, or use another --run-dir", errRunning, strings.TrimSpace(string(pid[:n])), p.Lock)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock of the daemon: %w", err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock of the daemon: %w", err)
	}
	return f, nil
}

// mountBPF mounts a bpffs where none is, so that the guard can outlive this process.
func mountBPF(pins string) error {
	point := filepath.Dir(pins)
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); err != nil {
		return fmt.Errorf("%s: %w: this kernel has no bpffs", point, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", point, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, "mode=0700"); err != nil {
		return fmt.Errorf("mounting a bpffs at %s: %w", point, err)
	}
	return nil
}

// operators finds the gid of the group of operators; -1: there is no such group.
func operators(group string) (int, error) {
	g, err := user.LookupGroup(group)
	var unknown user.UnknownGroupError
	if errors.As(err, &unknown) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("group %s: %w", group, err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1, fmt.Errorf("group %s: %w", group, err)
	}
	return gid, nil
}

// readPolicy reads and checks the host's default policy. A missing file at the default place is none; a broken one refuses the
// start with every mistake as file:line:column.
func readPolicy(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == instance.Policy {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("policy of this host: %w: name another with --policy", err)
	}
	if _, err := policy.Parse(path, content); err != nil {
		return nil, fmt.Errorf("policy of this host: %w", err)
	}
	return content, nil
}

// readNamespaces reads what namespaces may use, as readPolicy reads the policy; nil: as much as they like.
func readNamespaces(path string) (*namespaces.File, error) {
	content, err := os.ReadFile(path)
	if path == "" || errors.Is(err, fs.ErrNotExist) && path == instance.Namespaces {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("namespaces of this host: %w: name another file with --namespaces", err)
	}
	f, err := namespaces.Parse(path, content)
	if err != nil {
		return nil, fmt.Errorf("namespaces of this host: %w", err)
	}
	return f, nil
}

// enclaveBinary finds raypher-enclave beside this program, else in the path.
func enclaveBinary(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("looking for raypher-enclave: %w", err)
	}
	beside := filepath.Join(filepath.Dir(self), "raypher-enclave")
	if _, err := os.Stat(beside); err != nil {
		return "", fmt.Errorf("looking for raypher-enclave beside %s: %w: install it there, name it with --enclave-binary, or connect to one that runs with --enclave-socket", self, err)
	}
	return beside, nil
}
