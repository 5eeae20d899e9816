package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Frame of a TPM command or response (Part 1, 18): tag, size of everything, code.
const (
	headerSize  = 10
	maxResponse = 4096 // bytes; TPM_PT_MAX_RESPONSE_SIZE of every TPM that Linux drives
)

// DefaultTimeout bounds one command. Making an RSA key, the slowest one, takes some chips tens of seconds.
const DefaultTimeout = 60 * time.Second

// ErrLost: the device is gone, or what it answers is no TPM response. Nothing can be sent any more; the process has to
// start again. It comes wrapped beside signer.ErrDevice.
var ErrLost = errors.New("the connection to the TPM is lost")

// ErrLate: the TPM has not answered in time. The next command first waits for what it still owes.
var ErrLate = errors.New("the TPM has not answered in time")

// Device is an open TPM: a character device (/dev/tpmrm0), or the unix socket of a simulator (swtpm socket --server
// type=unixio). It is opened before the process gives up its rights and works with the open descriptor from then on. It
// implements go-tpm's transport, for one caller at a time; Close and Lost may be called at any time.
type Device struct {
	path    string
	timeout time.Duration
	port    port
	owed    bool // an answer that did not come in time is still to be read

	once sync.Once
	lost chan struct{}
}

// port is what both kinds of device can do. Read returns io.EOF when the device has gone.
type port interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// OpenDevice opens the TPM at path. Errors say what to do about them.
func OpenDevice(path string) (*Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, openError(path, err)
	}
	d := &Device{path: path, timeout: DefaultTimeout, lost: make(chan struct{})}
	switch {
	case info.Mode()&os.ModeSocket != 0:
		d.port, err = net.Dial("unix", path)
	case info.Mode()&os.ModeCharDevice != 0:
		d.port, err = openCharacterDevice(path)
	default:
		return nil, fmt.Errorf("%s: neither a TPM device nor a socket: use /dev/tpmrm0", path)
	}
	if err != nil {
		return nil, openError(path, err)
	}
	return d, nil
}

func openError(path string, err error) error {
	next := "is it a TPM?"
	switch {
	case errors.Is(err, os.ErrNotExist):
		next = "this host has no TPM, or it is switched off: enable TPM 2.0 (fTPM, PTT) in the firmware's setup, and look for it in the kernel's log"
	case errors.Is(err, os.ErrPermission):
		next = "run as root or join group tss"
	case errors.Is(err, unix.EBUSY):
		next = "another process uses it: use /dev/tpmrm0, which the kernel shares, or stop that process"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO), errors.Is(err, unix.EIO):
		next = "the driver finds no working TPM: look into the kernel's log"
	case errors.Is(err, unix.ECONNREFUSED):
		next = "no simulator serves there: start swtpm"
	}
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err // the path stands in front already
	}
	return fmt.Errorf("%s: %w: %s", path, err, next)
}

// Send implements go-tpm's transport: one command, its whole response.
func (d *Device) Send(command []byte) ([]byte, error) {
	select {
	case <-d.lost:
		return nil, ErrLost
	default:
	}
	if err := d.port.SetDeadline(time.Now().Add(d.timeout)); err != nil {
		return nil, d.lose(err)
	}
	if d.owed {
		if _, err := d.read(); err != nil {
			return nil, err
		}
		d.owed = false
	}
	if _, err := d.port.Write(command); err != nil {
		return nil, d.lose(err) // also after a time-out: half a command may have gone out
	}
	return d.read()
}

// read reads one response. A time-out before its first byte leaves the device usable.
func (d *Device) read() ([]byte, error) {
	buffer := make([]byte, maxResponse)
	have, want := 0, headerSize
	for have < want {
		n, err := d.port.Read(buffer[have:d.limit(have, want)])
		have += n
		if errors.Is(err, os.ErrDeadlineExceeded) && have == 0 {
			d.owed = true
			return nil, fmt.Errorf("%w (%s)", ErrLate, d.timeout)
		}
		if err != nil && have < want {
			return nil, d.lose(err)
		}
		if have < headerSize || want > headerSize {
			continue
		}
		size := binary.BigEndian.Uint32(buffer[2:])
		if size < headerSize || size > maxResponse || int(size) < have {
			return nil, d.lose(fmt.Errorf("%d bytes that say they are %d: no TPM answers so", have, size))
		}
		want = int(size)
	}
	return buffer[:have], nil
}

// limit is how far to read: a character device gives one response per read, whole; from a stream nothing beyond the
// response is taken.
func (d *Device) limit(have, want int) int {
	if _, stream := d.port.(net.Conn); stream {
		return want
	}
	return maxResponse
}

// lose closes the device for good.
func (d *Device) lose(err error) error {
	d.Close()
	if errors.Is(err, io.EOF) {
		err = errors.New("it closed the connection")
	}
	return fmt.Errorf("%w: %w: start again once it is back", ErrLost, err)
}

// Lost is closed when the device can no longer be used, also by Close.
func (d *Device) Lost() <-chan struct{} { return d.lost }

// String is the path.
func (d *Device) String() string { return d.path }

// Close closes the device and ends a command that waits. It is idempotent.
func (d *Device) Close() error {
	var err error
	d.once.Do(func() {
		close(d.lost)
		err = d.port.Close()
	})
	return err
}

// characterDevice waits for responses by poll, so that deadlines and Close work. In this mode the kernel queues the command
// and read returns nothing until the response is there (drivers/char/tpm/tpm-dev-common.c).
type characterDevice struct {
	file *os.File
	raw  syscall.RawConn
}

func openCharacterDevice(path string) (*characterDevice, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetDeadline(time.Time{}) // fails on a device that cannot be polled, as /dev/null: every TPM can
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &characterDevice{file, raw}, nil
}

func (c *characterDevice) Read(buffer []byte) (int, error) {
	var (
		n   int
		err error
	)
	if waitErr := c.raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buffer)
		return n > 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR
	}); waitErr != nil {
		return 0, waitErr
	}
	return max(n, 0), err
}

func (c *characterDevice) Write(buffer []byte) (int, error) { return c.file.Write(buffer) }
func (c *characterDevice) SetDeadline(t time.Time) error    { return c.file.SetDeadline(t) }
func (c *characterDevice) Close() error                     { return c.file.Close() }
