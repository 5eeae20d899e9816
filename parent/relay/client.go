package relay

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long the client waits for an answer. The server answers in microseconds, unless the agent asks for more than
// it may or the kernel waits for a file system.
const patience = 2 * time.Second

// ErrAway says that raypherd did not answer. Nothing is known then, and nothing may be granted.
var ErrAway = errors.New("raypherd does not relay")

// Client asks a raypherd. It connects when it is first asked and whenever the connection broke, so a raypherd that is started
// again is found. Its methods may be called from several goroutines; one question is asked at a time.
type Client struct {
	path string

	mutex  sync.Mutex
	socket int // -1: not connected
}

// NewClient returns a client of the raypherd whose relay's socket is at path. Close it in the end.
func NewClient(path string) *Client { return &Client{path: path, socket: -1} }

// Memory returns a descriptor of the memory of a task, for reading only. The error is the kernel's (unix.Errno), EPERM for a task
// that is not the agent's, or wraps ErrAway.
func (c *Client) Memory(task int) (int, error) {
	return c.ask(request{kind: askMemory, task: int32(task)})
}

// Descriptor duplicates descriptor `number` of a task. The error is as that of Memory.
func (c *Client) Descriptor(task, number int) (int, error) {
	return c.ask(request{kind: askDescriptor, task: int32(task), number: int32(number)})
}

// Close ends the connection.
func (c *Client) Close() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.drop()
	return nil
}

// ask asks once, and once more where a connection that was there before turns out to be broken: raypherd was started again.
func (c *Client) ask(r request) (int, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	known := c.socket >= 0
	fd, err := c.exchange(r)
	if err != nil && known && broken(err) {
		fd, err = c.exchange(r)
	}
	var refused refusal
	switch {
	case errors.As(err, &refused):
		return -1, refused.errno
	case err != nil:
		return -1, fmt.Errorf("%w: %s: %w", ErrAway, c.path, err)
	}
	return fd, nil
}

// refusal is an answer without a descriptor, as opposed to an error of the connection.
type refusal struct{ errno unix.Errno }

func (r refusal) Error() string { return r.errno.Error() }

var errEnded = errors.New("it ended the connection")

// broken says whether the other end of a connection has gone.
func broken(err error) bool {
	return errors.Is(err, errEnded) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ENOTCONN)
}

// exchange sends a request and takes its answer. After any error but a refusal there is no connection any more: an answer that
// comes late must not be taken for that to another question.
func (c *Client) exchange(r request) (fd int, err error) {
	if err := c.connect(); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil && !errors.As(err, new(refusal)) {
			c.drop()
		}
	}()
	if err := retry(func() error { return unix.Sendmsg(c.socket, r.encode(), nil, nil, unix.MSG_NOSIGNAL) }); err != nil {
		return -1, err
	}
	return c.receive()
}

func (c *Client) receive() (int, error) {
	var room [sizeReply + 1]byte
	rights := make([]byte, unix.CmsgSpace(4))
	var n, length, flags int
	err := retry(func() (err error) {
		n, length, flags, _, err = unix.Recvmsg(c.socket, room[:], rights, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	switch {
	case err != nil:
		return -1, err
	case n == 0:
		return -1, errEnded
	}
	fd, err := onlyDescriptor(rights[:length])
	if err != nil {
		return -1, err
	}
	errno, err := decodeReply(room[:n])
	switch {
	case err != nil, flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0, (errno == 0) != (fd >= 0):
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, errMalformed
	case errno != 0:
		return -1, refusal{errno}
	}
	return fd, nil
}

// onlyDescriptor is the descriptor in a control message, -1 for none. There is room for no second one.
func onlyDescriptor(control []byte) (int, error) {
	if len(control) == 0 {
		return -1, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1, err
	}
	fd := -1
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, one := range fds {
			if fd >= 0 {
				unix.Close(fd)
			}
			fd = one
		}
	}
	return fd, nil
}

// connect connects unless that is done.
func (c *Client) connect() error {
	if c.socket >= 0 {
		return nil
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	limit := unix.NsecToTimeval(int64(patience))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err == nil {
			err = unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, option, &limit)
		}
	}
	if err == nil {
		err = retry(func() error { return unix.Connect(socket, &unix.SockaddrUnix{Name: c.path}) })
	}
	if err != nil {
		unix.Close(socket)
		return err
	}
	c.socket = socket
	return nil
}

func (c *Client) drop() {
	if c.socket >= 0 {
		unix.Close(c.socket)
		c.socket = -1
	}
}

func retry(do func() error) error {
	for {
		if err := do(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
