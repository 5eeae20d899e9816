package vhostuser_test

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/lab/vhostuser"
)

// Layout of the machine's memory: rings and buffers, at an address of the machine's and one of QEMU's.
const (
	memorySize = 1 << 16
	guestBase  = 0x100000
	userBase   = 0x7f0000000000
	queueSize  = 8

	descriptors, available, used = 0, 0x1000, 0x2000
	requestAt, answerAt          = 0x3000, 0x4000
	answerSize                   = 64
)

// frontEnd does what QEMU and a driver do.
type frontEnd struct {
	conn       *net.UnixConn
	memory     []byte
	kick, call int
	served     chan error
}

func newFrontEnd(t *testing.T) *frontEnd {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	check(t, err)
	defer l.Close()
	f := &frontEnd{served: make(chan error, 1)}
	f.conn, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	check(t, err)
	other, err := l.AcceptUnix()
	check(t, err)
	go func() {
		defer other.Close()
		f.served <- vhostuser.Serve(other, vhostuser.Device{
			Answer: func(request []byte) []byte { return append([]byte("you said "), request...) }, MaxRequest: 32,
		})
	}()
	t.Cleanup(func() { f.conn.Close() })
	return f
}

// start sets the queue up, with memory of its own.
func (f *frontEnd) start(t *testing.T) {
	t.Helper()
	memory, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	check(t, err)
	check(t, unix.Ftruncate(memory, memorySize))
	f.memory, err = unix.Mmap(memory, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	f.kick, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	check(t, err)
	f.call, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	check(t, err)
	t.Cleanup(func() {
		unix.Munmap(f.memory)
		unix.Close(memory)
		unix.Close(f.kick)
		unix.Close(f.call)
	})
	f.send(t, 5, numbers(1, guestBase, memorySize, userBase, 0), memory)
	f.send(t, 8, state(queueSize))
	f.send(t, 9, numbers(0, userBase+descriptors, userBase+used, userBase+available, 0))
	f.send(t, 10, state(0))
	f.send(t, 12, numbers(0), f.kick)
	f.send(t, 13, numbers(0), f.call)
}

func (f *frontEnd) enable(t *testing.T) {
	t.Helper()
	f.send(t, 18, state(1))
}

func numbers(all ...uint64) (b []byte) {
	for _, n := range all {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

func state(n uint32) []byte { return numbers(uint64(n) << 32) }

// send sends a message without an acknowledgement.
func (f *frontEnd) send(t *testing.T, request uint32, payload []byte, files ...int) {
	t.Helper()
	header := binary.LittleEndian.AppendUint32(nil, request)
	header = binary.LittleEndian.AppendUint32(header, 1)
	header = binary.LittleEndian.AppendUint32(header, uint32(len(payload)))
	var control []byte
	if len(files) > 0 {
		control = unix.UnixRights(files...)
	}
	_, _, err := f.conn.WriteMsgUnix(append(header, payload...), control, nil)
	check(t, err)
}

// describe writes a descriptor.
func (f *frontEnd) describe(index int, address uint64, size uint32, flags, next uint16) {
	d := f.memory[descriptors+16*index:]
	binary.LittleEndian.PutUint64(d, address)
	binary.LittleEndian.PutUint32(d[8:], size)
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], next)
}

// offer puts chains into the available ring and kicks.
func (f *frontEnd) offer(t *testing.T, heads ...uint16) {
	t.Helper()
	at := binary.LittleEndian.Uint16(f.memory[available+2:])
	for _, head := range heads {
		binary.LittleEndian.PutUint16(f.memory[available+4+2*int(at%queueSize):], head)
		at++
	}
	binary.LittleEndian.PutUint16(f.memory[available+2:], at)
	_, err := unix.Write(f.kick, numbers(1))
	check(t, err)
}

// answered waits for the backend's word, and returns what it has written for the last chain.
func (f *frontEnd) answered(t *testing.T, chains uint16) string {
	t.Helper()
	word := make([]byte, 8)
	for binary.LittleEndian.Uint16(f.memory[used+2:]) != chains {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(f.call), Events: unix.POLLIN}}, 10_000)
		if err == nil {
			_, err = unix.Read(f.call, word)
		}
		if err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	size := binary.LittleEndian.Uint32(f.memory[used+4+8*int((chains-1)%queueSize)+4:])
	return string(f.memory[answerAt : answerAt+size])
}

// The driver of Linux posts two chains, the specification knows one with both; kicks may come before the queue is enabled.
func TestAnswers(t *testing.T) {
	f := newFrontEnd(t)
	f.start(t)
	copy(f.memory[requestAt:], "hello")
	f.describe(0, guestBase+requestAt, 5, 0, 0)
	f.describe(1, guestBase+answerAt, answerSize, 2, 0)
	f.offer(t, 0, 1)
	f.enable(t)
	if got := f.answered(t, 2); got != "you said hello" {
		t.Errorf("two chains: %q", got)
	}
	f.describe(0, guestBase+requestAt, 2, 1, 2)
	f.describe(2, guestBase+requestAt+2, 3, 1, 1)
	for round := range uint16(20) { // around the rings
		f.offer(t, 0)
		if got := f.answered(t, 3+round); got != "you said hello" {
			t.Errorf("one chain: %q", got)
		}
	}
	f.conn.CloseWrite()
	if err := <-f.served; err != nil {
		t.Errorf("a machine that ends: %v", err)
	}
}

// What is no queue ends the connection, in words, and nothing else.
func TestHostileQueues(t *testing.T) {
	for _, c := range []struct {
		name string
		bend func(f *frontEnd)
		want string
	}{
		{"a buffer outside the memory", func(f *frontEnd) { f.describe(0, guestBase+memorySize, 5, 1, 1) }, "not in the machine's memory"},
		{"a buffer that begins inside", func(f *frontEnd) { f.describe(0, guestBase+memorySize-2, 5, 1, 1) }, "not in the machine's memory"},
		{"a buffer around the end of all", func(f *frontEnd) { f.describe(0, ^uint64(0)-1, 5, 1, 1) }, "not in the machine's memory"},
		{"a buffer of 4 GiB", func(f *frontEnd) { f.describe(0, guestBase, ^uint32(0), 1, 1) }, "not in the machine's memory"},
		{"a long request", func(f *frontEnd) { f.describe(0, guestBase+requestAt, 33, 1, 1) }, "a request of more than 32 bytes"},
		{"no room for the answer", func(f *frontEnd) { f.describe(1, guestBase+answerAt, 4, 2, 0) }, "and room for 4"},
		{"a loop", func(f *frontEnd) { f.describe(0, guestBase+requestAt, 0, 1, 0) }, "without end"},
		{"a descriptor that is not there", func(f *frontEnd) { f.describe(0, guestBase+requestAt, 1, 1, 9) }, "descriptor 9 of 8"},
		{"an indirect descriptor", func(f *frontEnd) { f.describe(0, guestBase+requestAt, 16, 4, 0) }, "flags 0x4"},
		{"a chain that is not there", func(f *frontEnd) { binary.LittleEndian.PutUint16(f.memory[available+4:], 0xffff) }, "descriptor 65535 of 8"},
		{"requests without an answer", func(f *frontEnd) {
			f.describe(0, guestBase+requestAt, 1, 0, 0)
			binary.LittleEndian.PutUint16(f.memory[available+2:], 2)
		}, "two requests"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFrontEnd(t)
			f.start(t)
			f.describe(0, guestBase+requestAt, 5, 1, 1)
			f.describe(1, guestBase+answerAt, answerSize, 2, 0)
			f.offer(t, 0)
			c.bend(f)
			f.enable(t)
			f.ends(t, c.want)
		})
		t.Run(c.name+", by a kick", func(t *testing.T) {
			f := newFrontEnd(t)
			f.start(t)
			f.enable(t)
			f.describe(0, guestBase+requestAt, 5, 1, 1)
			f.describe(1, guestBase+answerAt, answerSize, 2, 0)
			binary.LittleEndian.PutUint16(f.memory[available+2:], 1)
			c.bend(f)
			_, err := unix.Write(f.kick, numbers(1))
			check(t, err)
			f.ends(t, c.want)
		})
	}
}

// What is no message of the protocol does the same.
func TestHostileMessages(t *testing.T) {
	for _, c := range []struct {
		name string
		send func(t *testing.T, f *frontEnd)
		want string
	}{
		{"unknown", func(t *testing.T, f *frontEnd) { f.send(t, 99, nil) }, "unknown request 99"},
		{"too long", func(t *testing.T, f *frontEnd) { f.send(t, 1, make([]byte, 1025)) }, "at most 1024"},
		{"memory without a descriptor", func(t *testing.T, f *frontEnd) { f.send(t, 5, numbers(1, 0, 1, 0, 0)) }, "0 descriptors"},
		{"memory that ends after the end of all", func(t *testing.T, f *frontEnd) { f.send(t, 5, numbers(1, ^uint64(0), 4096, 0, 0), f.kick) }, "memory: a region"},
		{"memory that is none", func(t *testing.T, f *frontEnd) { f.send(t, 5, numbers(1, 0, 4096, 0, 0), f.kick) }, "map the machine's memory"},
		{"a second queue", func(t *testing.T, f *frontEnd) { f.send(t, 8, numbers(1)) }, "not for a device with one queue"},
		{"a queue of 3", func(t *testing.T, f *frontEnd) { f.send(t, 8, state(3)) }, "a queue of 3 descriptors"},
		{"a short state", func(t *testing.T, f *frontEnd) { f.send(t, 8, make([]byte, 4)) }, "payload of 4 bytes"},
		{"no descriptor to kick", func(t *testing.T, f *frontEnd) { f.send(t, 12, numbers(0)) }, "0 descriptors, expected one"},
		{"rings outside the memory", func(t *testing.T, f *frontEnd) {
			f.send(t, 9, numbers(0, userBase+memorySize, userBase+used, userBase+available, 0))
			f.send(t, 18, state(1))
		}, "not in the memory that QEMU has shared"},
		{"rings that are not aligned", func(t *testing.T, f *frontEnd) {
			f.send(t, 9, numbers(0, userBase, userBase+used+2, userBase+available, 0))
			f.send(t, 18, state(1))
		}, "not aligned"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFrontEnd(t)
			f.start(t)
			c.send(t, f)
			f.ends(t, c.want)
		})
	}
}

// A message that is cut off is the end of the machine.
func TestCutOff(t *testing.T) {
	f := newFrontEnd(t)
	_, err := f.conn.Write([]byte{1, 0, 0})
	check(t, err)
	f.conn.CloseWrite()
	f.ends(t, io.ErrUnexpectedEOF.Error())
}

func (f *frontEnd) ends(t *testing.T, want string) {
	t.Helper()
	select {
	case err := <-f.served:
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("it goes on, want an error with %q", want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
