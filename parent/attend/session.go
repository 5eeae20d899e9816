package attend

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// MaxMessage is the size of the largest message, in bytes: a policy and a manifest at the most.
const MaxMessage = 4 << 20

// header is the length of a message, 32 bits, the most significant byte first. That byte is always 0, by which raypherd tells a
// warden from a gRPC client, whose first byte is the P of HTTP/2 (RFC 9113, section 3.4).
const header = 4

// FirstByte is the first byte of every session.
const FirstByte = 0

// ErrTooLarge says that a message is larger than MaxMessage.
var ErrTooLarge = errors.New("the message is too large")

// ErrNotText says that a name or path in a message is not UTF-8. JSON would make another one of it: of a folder that is closed to
// agents one that does not exist.
var ErrNotText = errors.New("a name or path is not UTF-8: rename it")

// Marshal encodes a message, or a part of one, as JSON.
func Marshal(message any) ([]byte, error) {
	body, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	const replaced = `\ufffd` // what is not UTF-8 comes out as this escape, and as nothing else does
	for rest := body; ; {
		at := bytes.Index(rest, []byte(replaced))
		if at < 0 {
			return body, nil
		}
		if before := rest[:at]; (len(before)-len(bytes.TrimRight(before, `\`)))%2 == 0 {
			return nil, ErrNotText
		}
		rest = rest[at+len(replaced):]
	}
}

// write writes one message.
func write(w io.Writer, message any) error {
	body, err := Marshal(message)
	if err != nil {
		return err
	}
	if len(body) > MaxMessage {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), MaxMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, header+len(body)), uint32(len(body))), body...))
	return err
}

// read reads one message into an empty one. io.EOF says that there is no further one.
func read(r io.Reader, message any) error {
	var size [header]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	length := int64(binary.BigEndian.Uint32(size[:]))
	if length > MaxMessage {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, length, MaxMessage)
	}
	var body bytes.Buffer // grows with what comes, not with what is announced
	if _, err := io.CopyN(&body, r, length); err != nil {
		return fmt.Errorf("the message is cut off: %w", noEOF(err))
	}
	if err := json.Unmarshal(body.Bytes(), message); err != nil {
		return fmt.Errorf("malformed message: %w", err)
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Session is a warden's end. One goroutine may send while another receives.
type Session struct {
	conn *net.UnixConn
	stop func() bool
}

// Dial connects to a raypherd's socket. The session ends with ctx.
func Dial(ctx context.Context, socket string) (*Session, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	return &Session{conn.(*net.UnixConn), context.AfterFunc(ctx, func() { conn.Close() })}, nil
}

// Send sends a message.
func (s *Session) Send(m *WardenMessage) error { return write(s.conn, m) }

// Recv waits for the next message; io.EOF says that raypherd has said everything. An error ends the session, and so does Refused.
func (s *Session) Recv() (*ParentMessage, error) {
	m := &ParentMessage{}
	err := read(s.conn, m)
	if err != nil || m.Refused != nil {
		s.Close()
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// CloseSend says that nothing more will be sent; Recv then ends when raypherd has taken everything.
func (s *Session) CloseSend() error { return s.conn.CloseWrite() }

// Close ends the session.
func (s *Session) Close() error {
	s.stop()
	return s.conn.Close()
}

// Accepted is raypherd's end. One goroutine may receive while others send.
type Accepted struct {
	conn net.Conn
	mu   sync.Mutex // one message at a time
}

// Accept takes a connection whose first byte is FirstByte, and not yet read.
func Accept(conn net.Conn) *Accepted { return &Accepted{conn: conn} }

// Send sends a message.
func (a *Accepted) Send(m *ParentMessage) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return write(a.conn, m)
}

// Recv waits for the next message; io.EOF says that the warden has said everything.
func (a *Accepted) Recv() (*WardenMessage, error) {
	m := &WardenMessage{}
	if err := read(a.conn, m); err != nil {
		return nil, err
	}
	return m, nil
}

// hurry is how long a last message may take.
const hurry = time.Second

// Hurry lets what is being sent, and what will be, take no longer than that.
func (a *Accepted) Hurry() { _ = a.conn.SetWriteDeadline(time.Now().Add(hurry)) }

// Close ends the session.
func (a *Accepted) Close() error { return a.conn.Close() }
