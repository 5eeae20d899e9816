package warden

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is what a message between the runner and its warden says.
type Kind byte

// The messages, in their order.
const (
	Launch   Kind = 'L' // runner: an attend.Launch without its confirmation key
	Expected Kind = 'X' // warden: the attend.Terms that raypherd expects to grant; may be missing
	Granted  Kind = 'G' // warden: the attend.Granted of raypherd
	Failed   Kind = 'E' // warden: why there is none, in words
	Listener Kind = 'N' // runner: a Floor as JSON, with the notification descriptor and, if the floor says so, the visa's file
	Serving  Kind = 'S' // warden: notifications are being answered
)

// chunk is how much of a message one packet carries, more than most messages have, and so little that room for one costs few
// pages; maxMessage bounds a message, and what a peer can make the other keep.
const (
	chunk      = 8 << 10
	maxMessage = 16 << 20
)

// Conversation is one end of the socket pair between a runner and its warden. One goroutine at a time may use it.
type Conversation struct{ fd int }

// NewConversation returns both ends; each is closed on exec.
func NewConversation() (a, b *Conversation, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair to the warden: %w", err)
	}
	return &Conversation{fds[0]}, &Conversation{fds[1]}, nil
}

// Inherited is the end that a process was started with, as descriptor number fd.
func Inherited(fd int) *Conversation {
	unix.CloseOnExec(fd)
	return &Conversation{fd}
}

// FD is the descriptor of this end.
func (c *Conversation) FD() int { return c.fd }

// Close ends the conversation.
func (c *Conversation) Close() error { return unix.Close(c.fd) }

// Send sends one message. Descriptors go with its first packet. Each packet begins with the kind and whether more follow.
func (c *Conversation) Send(kind Kind, body []byte, fds ...int) error {
	if len(body) > maxMessage {
		return fmt.Errorf("message to the other side: %d bytes are too many", len(body))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for first := true; first || len(body) > 0; first = false {
		part := body[:min(len(body), chunk)]
		body = body[len(part):]
		more := byte(0)
		if len(body) > 0 {
			more = 1
		}
		packet := append([]byte{byte(kind), more}, part...)
		if err := retry(func() error { return unix.Sendmsg(c.fd, packet, rights, nil, unix.MSG_NOSIGNAL) }); err != nil {
			return fmt.Errorf("send to the other side: %w", err)
		}
		rights = nil
	}
	return nil
}

// goneBefore waits until the other side has gone, which is true, or until done. Whether it was done is looked at after each
// wait: the other side also goes when it has become the program, which is always after done.
func (c *Conversation) goneBefore(done <-chan struct{}) bool {
	for {
		polled := []unix.PollFd{{Fd: int32(c.fd)}}
		n, err := unix.Poll(polled, 100)
		select {
		case <-done:
			return false
		default:
		}
		if n > 0 && err == nil {
			return true
		}
	}
}

// awaitEnd waits until the other side has gone, for as long as patience, in whole milliseconds.
func (c *Conversation) awaitEnd(patience time.Duration) {
	polled := []unix.PollFd{{Fd: int32(c.fd)}}
	_ = retry(func() error {
		_, err := unix.Poll(polled, int(patience.Milliseconds()))
		return err
	})
}

// Receive waits for the next message. io.EOF says that the other side has gone.
func (c *Conversation) Receive() (kind Kind, body []byte, fds []int, err error) {
	packet := make([]byte, chunk+2)
	rights := make([]byte, unix.CmsgSpace(4*8))
	for {
		var n, oob int
		err := retry(func() (err error) {
			n, oob, _, _, err = unix.Recvmsg(c.fd, packet, rights, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		if err != nil {
			return 0, nil, fds, fmt.Errorf("receive from the other side: %w", err)
		}
		if n == 0 {
			return 0, nil, fds, io.EOF
		}
		got, err := descriptors(rights[:oob])
		fds = append(fds, got...)
		switch {
		case err != nil:
			return 0, nil, fds, err
		case n < 2 || kind != 0 && kind != Kind(packet[0]) || len(body)+n > maxMessage:
			return 0, nil, fds, errors.New("receive from the other side: malformed message")
		}
		kind = Kind(packet[0])
		body = append(body, packet[2:n]...)
		if packet[1] == 0 {
			return kind, body, fds, nil
		}
	}
}

func descriptors(control []byte) ([]int, error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("receive descriptors: %w", err)
	}
	var fds []int
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, fmt.Errorf("receive descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func retry(do func() error) error {
	for {
		if err := do(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// nullFile opens /dev/null for what a detached process must not share with its caller.
func nullFile() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }
