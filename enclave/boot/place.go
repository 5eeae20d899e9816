package boot

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// The account of the process where --user says nothing and it was started by root.
const (
	accountName = "raypher-enclave"
	// fallbackUID is used where that user does not exist. It lies outside the ranges that Debian and systemd hand out
	// (systemd.io/UIDS-GIDS), so no other program's files are its own.
	fallbackUID = 64742
)

// account is who the process becomes.
type account struct{ uid, gid int }

// lookUp finds the account for --user. Only root can become somebody else.
func lookUp(name string) (account, error) {
	self := account{os.Getuid(), os.Getgid()}
	if name == "" {
		if self.uid != 0 {
			return self, nil
		}
		u, err := user.Lookup(accountName)
		if err != nil {
			return account{fallbackUID, fallbackUID}, nil
		}
		return parseAccount(u.Uid + ":" + u.Gid)
	}
	a, err := parseAccount(name)
	if err != nil {
		u, lookErr := user.Lookup(name)
		if lookErr != nil {
			return account{}, fmt.Errorf("--user %q: neither UID[:GID] nor a known user: %w", name, lookErr)
		}
		if a, err = parseAccount(u.Uid + ":" + u.Gid); err != nil {
			return account{}, err
		}
	}
	switch {
	case a.uid == 0:
		return account{}, errors.New("--user: the enclave does not run as root")
	case self.uid != 0 && a != self:
		return account{}, fmt.Errorf("--user %q: only root can become another user", name)
	}
	return a, nil
}

func parseAccount(text string) (account, error) {
	uidText, gidText, both := strings.Cut(text, ":")
	if !both {
		gidText = uidText
	}
	uid, err := strconv.ParseUint(uidText, 10, 31)
	if err != nil {
		return account{}, fmt.Errorf("uid %q: %w", uidText, err)
	}
	gid, err := strconv.ParseUint(gidText, 10, 31)
	if err != nil {
		return account{}, fmt.Errorf("gid %q: %w", gidText, err)
	}
	return account{int(uid), int(gid)}, nil
}

// privateFolder makes dir for the account, or checks one that exists: it must be a folder that only the account can enter.
// An empty folder of root is handed over; files says which names count as empty. It never changes a folder with anything
// else in it: a mistyped path must not give /tmp away.
func privateFolder(dir string, a account, files ...string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	d, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s: mode %04o lets others in: use a folder of its own, or chmod 0700", dir, perm)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner == a.uid {
		return nil
	}
	if owner != 0 || os.Getuid() != 0 {
		return fmt.Errorf("%s: owned by uid %d, the enclave runs as uid %d: chown it, or use another folder", dir, owner, a.uid)
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.Contains(files, name) {
			return fmt.Errorf("%s: root's, with %q in it: chown it to uid %d, or use another folder", dir, name, a.uid)
		}
	}
	return d.Chown(a.uid, a.gid)
}

// listen opens the listener while the process may still do so. The socket's folder is 0700, so that only root and the
// enclave's user can reach it; who may call is decided by key nevertheless.
func listen(address string, a account) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok && filepath.IsAbs(path) {
		return listenUnix(path, a)
	}
	port, ok, err := vsockPort(address, DefaultPort)
	if err != nil {
		return nil, fmt.Errorf("--listen %w", err)
	}
	if ok {
		return listenVsock(port)
	}
	return nil, fmt.Errorf("--listen %q: use unix:PATH with an absolute path, or vsock:PORT", address)
}

// vsockPort reads vsock or vsock:PORT; ok says whether it is one of them.
func vsockPort(address string, standard uint32) (port uint32, ok bool, err error) {
	text, ok := strings.CutPrefix(address, "vsock")
	if !ok || text != "" && text[0] != ':' {
		return 0, false, nil
	}
	if text == "" {
		return standard, true, nil
	}
	wide, err := strconv.ParseUint(text[1:], 10, 32)
	if err != nil {
		return 0, false, fmt.Errorf("%q: use vsock:PORT", address)
	}
	return uint32(wide), true, nil
}

// listenVsock listens on every context id of this machine.
func listenVsock(port uint32) (net.Listener, error) {
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, port, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w: is this a virtual machine with a vsock device?", port, err)
	}
	return l, nil
}

func listenUnix(path string, a account) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := privateFolder(dir, a, filepath.Base(path)); err != nil {
		return nil, fmt.Errorf("folder of the socket: %w", err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another process serves there: stop it first", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: remove the old socket: %w", path, err)
	}
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // after the sandbox it could not; the next start removes it
	if err := os.Lchown(path, a.uid, a.gid); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}
