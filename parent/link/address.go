package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
)

// dialFunc opens a connection to the enclave.
type dialFunc func(context.Context) (net.Conn, error)

// dialer reads an address: unix:PATH, vsock:CID:PORT, or vsock-uds:PATH:PORT for the socket of a vsock device that runs on this host.
func dialer(address string) (dialFunc, error) {
	kind, rest, _ := strings.Cut(address, ":")
	if kind == "unix" && rest != "" {
		return func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", rest)
		}, nil
	}
	colon := strings.LastIndexByte(rest, ':')
	if colon > 0 {
		port, err := strconv.ParseUint(rest[colon+1:], 10, 32)
		cid, cidErr := strconv.ParseUint(rest[:colon], 10, 32)
		switch {
		case err == nil && kind == "vsock-uds":
			return func(ctx context.Context) (net.Conn, error) { return dialDevice(ctx, rest[:colon], uint32(port)) }, nil
		case err == nil && kind == "vsock" && cidErr == nil:
			return func(context.Context) (net.Conn, error) { return vsock.Dial(uint32(cid), uint32(port), nil) }, nil
		}
	}
	return nil, fmt.Errorf("enclave address %q: use unix:PATH, vsock:CID:PORT or vsock-uds:PATH:PORT", address)
}

// maxGreeting bounds what a vsock device says before the connection is the machine's, in bytes.
const maxGreeting = 64

// dialDevice asks a vsock device in user space (vhost-device-vsock, Firecracker) for a connection to a port of its machine.
func dialDevice(ctx context.Context, path string, port uint32) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = greet(conn, port)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("port %d through %s: %w", port, path, err)
	}
	return conn, nil
}

// greet reads byte by byte: what follows the line is the machine's.
func greet(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	line := make([]byte, 0, maxGreeting)
	for len(line) < maxGreeting {
		next := line[len(line) : len(line)+1]
		if _, err := io.ReadFull(conn, next); errors.Is(err, io.EOF) {
			return errors.New("nothing listens there")
		} else if err != nil {
			return err
		}
		line = line[:len(line)+1]
		if next[0] == '\n' {
			break
		}
	}
	if !strings.HasPrefix(string(line), "OK ") || line[len(line)-1] != '\n' {
		return fmt.Errorf("it says %q, and not OK: is it the socket of a vsock device?", line)
	}
	return nil
}
