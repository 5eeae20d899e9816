package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/instance"
)

// sizeUnixAddress is that of struct sockaddr_un, the longest address that the broker looks at.
const sizeUnixAddress = 110

// unixAddress is the content of a struct sockaddr_un.
type unixAddress struct {
	path     string // of a socket with a path
	abstract string // name of one without
}

// parseAddress reads a socket address of the target. It is false for other families and for unix addresses that name nothing.
func parseAddress(raw []byte) (unixAddress, bool) {
	if len(raw) < 3 || binary.LittleEndian.Uint16(raw) != unix.AF_UNIX {
		return unixAddress{}, false
	}
	name := raw[2:]
	if name[0] == 0 {
		return unixAddress{abstract: string(name[1:])}, true
	}
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	return unixAddress{path: string(name)}, true
}

// connectCall decides on unix sockets, and asks about internet addresses (internet.go). Apart from that these are the network guard's, whose programs look at the address that the kernel
// copied; a racing thread gains nothing by changing it to a unix address, which they refuse.
func connectCall(w *worker, n *notification, r *ruling) answer {
	length := uint32(n.Args[2])
	if length < 3 || length > 128 {
		return goOn // no unix address; EINVAL for most
	}
	raw := make([]byte, length)
	if err := w.memory(n, n.Args[1], raw); err != nil {
		return result(err)
	}
	address, ok := parseAddress(raw[:min(length, sizeUnixAddress)])
	if !ok {
		return w.connectInternet(n, r, raw)
	}
	if address.path == "" {
		return goOn // Landlock keeps abstract names inside the agent
	}
	o, err := w.lookup(n, unix.AT_FDCWD, address.path, lookupFlags{})
	if err != nil {
		switch {
		case errors.Is(err, errUnsupported):
			return w.refuse(n, r, event{operation: "connect", target: address.path, errno: unix.EACCES, asPassed: true})
		case r.lenient:
			return goOn // it fails either way
		}
		return result(err)
	}
	defer o.close()
	if o.kind() != unix.S_IFSOCK {
		return fail(unix.ECONNREFUSED)
	}
	if o.path != w.options.AgentSocket || o.path == "" {
		if inAny(o.path, w.options.Closed) || w.ofRaypher(o) {
			return w.refuse(n, r, event{operation: "connect", target: o.path, rule: ruleClosed, errno: unix.EACCES})
		}
		rule, granted := "", false
		if r.permit.Network != nil {
			rule, granted = r.permit.Network.MatchUnix(o.path)
		}
		if !granted {
			return w.refuse(n, r, event{operation: "connect", target: o.path, rule: rule, errno: unix.EACCES})
		}
	}
	if r.lenient {
		return goOn
	}
	return w.connect(n, int32(n.Args[0]), o)
}

// ofRaypher reports whether a socket is one of those through which a raypherd or its enclave is operated, of any instance: there
// the warden would be taken for a person, or heard as itself. They are known by their names, and those of this instance, of the
// system's and of private ones also under another name.
func (w *worker) ofRaypher(o *object) bool {
	system := instance.Default()
	paths := []string{system.Socket, system.Relay, system.EnclaveSocket}
	if slices.ContainsFunc(paths, func(p string) bool { return filepath.Base(p) == filepath.Base(o.path) }) {
		return true
	}
	if own, err := instance.At(filepath.Dir(w.options.AgentSocket), ""); err == nil {
		paths = append(paths, own.Socket, own.Relay, own.EnclaveSocket)
	}
	for _, path := range append(paths, instance.PrivateSockets()...) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Dev == o.stat().Dev && st.Ino == o.stat().Ino {
			return true
		}
	}
	return false
}

// connect connects the target's own socket to the object. The peer sees the warden's pid and the agent's user.
func (w *worker) connect(n *notification, number int32, o *object) answer {
	socket, err := w.take(n, number)
	if err != nil {
		return result(err)
	}
	defer unix.Close(socket)
	if domain, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		if err == nil {
			err = unix.EINVAL
		}
		return result(err)
	}
	return result(unix.Connect(socket, &unix.SockaddrUnix{Name: o.reopen()}))
}
