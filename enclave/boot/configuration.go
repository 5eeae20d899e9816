package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/raypher/raypher/startconf"
)

// receiveTimeout bounds one connection that brings a start configuration.
const receiveTimeout = 10 * time.Second

// maxReason bounds the answer to a configuration that was not taken, in bytes.
const maxReason = 4 << 10

// openConfiguration reads the start configuration from a file, at once, or opens the port at which it will come in. What it returns is called
// after the sandbox: what comes over vsock is anybody's.
func openConfiguration(o Options) (func(context.Context) (*startconf.Configuration, error), error) {
	port, ok, err := vsockPort(o.Config, ConfigPort)
	if err != nil {
		return nil, fmt.Errorf("--config %w", err)
	}
	if !ok {
		configuration, err := startconf.Read(o.Config)
		return func(context.Context) (*startconf.Configuration, error) { return configuration, err }, err
	}
	listener, err := listenVsock(port)
	if err != nil {
		return nil, fmt.Errorf("start configuration: %w", err)
	}
	return func(ctx context.Context) (*startconf.Configuration, error) {
		o.Log.Info("waiting for the start configuration", "vsock_port", port)
		return ReceiveConfiguration(ctx, listener, o.Log)
	}, nil
}

// ReceiveConfiguration takes the first configuration that is one, and closes the listener: there is no second. Who sends it is not asked. It
// decides nothing that evidence does not name, and an enclave with another one than its operator's is one that nobody trusts.
//
// The sender writes the size, 4 bytes big-endian, and the text; it gets "ok sha256:..." with the configuration's hash, or "refused: ..." and
// the reason, and the connection ends.
func ReceiveConfiguration(ctx context.Context, l net.Listener, log *slog.Logger) (*startconf.Configuration, error) {
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("wait for the start configuration: %w", ctx.Err())
		}
		if err != nil {
			return nil, fmt.Errorf("wait for the start configuration: %w", err)
		}
		configuration, err := receiveFrom(conn)
		if err == nil {
			return configuration, nil
		}
		log.Warn("no start configuration", "from", conn.RemoteAddr(), "reason", err)
	}
}

func receiveFrom(conn net.Conn) (*startconf.Configuration, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(receiveTimeout)); err != nil {
		return nil, err
	}
	configuration, err := readConfiguration(conn)
	answer := ""
	if err == nil {
		answer = fmt.Sprintf("ok sha256:%x\n", configuration.Hash())
	} else {
		answer = fmt.Sprintf("refused: %.*s\n", maxReason, err)
	}
	if _, writeErr := io.WriteString(conn, answer); err == nil {
		return configuration, writeErr // who did not hear that it was taken sends it again
	}
	return nil, err
}

func readConfiguration(r io.Reader) (*startconf.Configuration, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > startconf.MaxSize {
		return nil, fmt.Errorf("a start configuration of %d bytes, use 1 to %d", n, startconf.MaxSize)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, err
	}
	configuration, err := startconf.Parse("start configuration", text)
	if err == nil && len(configuration.CallerKeys) == 0 {
		err = errors.New("start configuration: no caller_key: nobody could call: add the line that `raypherd --caller-key` prints")
	}
	return configuration, err
}
