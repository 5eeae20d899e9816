package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
)

// ForMembers is the mode of a socket for root and the members of a group, with a negative one for root alone.
func (p Paths) ForMembers(group int) fs.FileMode {
	if p.Private || group < 0 {
		return 0o600
	}
	return 0o660
}

// Listen makes a socket of the instance, of a network that package net knows as unix or unixpacket, so that nobody can connect
// before its mode and group are right. A negative group leaves root's. One that an earlier raypherd left is replaced: the caller
// holds the instance's lock.
func Listen(network, path string, mode fs.FileMode, group int) (*net.UnixListener, error) {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: temporary, Net: network})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(temporary, 0o600)
	if err == nil && group >= 0 {
		err = os.Chown(temporary, 0, group)
	}
	if err == nil {
		err = os.Chmod(temporary, mode)
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}
