// Package vhostuser puts a device with one queue, which answers requests, into a virtual machine: the backend of the vhost-user protocol
// (docs/interop/vhost-user.rst of QEMU), for
//
//	-chardev socket,id=nsm,path=SOCKET -device vhost-user-test-device-pci,chardev=nsm,virtio-id=33,num_vqs=1
//
// It is for laboratories: one machine at a time, whose memory is a memfd that it shares. The machine is not trusted: whatever it puts
// into its memory ends at most its own connection.
package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Device is what answers.
type Device struct {
	// Answer answers one request. It is called for one at a time and may not keep the slice.
	Answer func(request []byte) []byte
	// MaxRequest bounds a request, in bytes; a longer one ends the connection.
	MaxRequest int
}

// Requests of the front end (struct VhostUserRequest of subprojects/libvhost-user in QEMU).
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	resetOwner          = 4
	setMemoryTable      = 5
	setQueueSize        = 8
	setQueueAddress     = 9
	setQueueBase        = 10
	getQueueBase        = 11
	setKick             = 12
	setCall             = 13
	setError            = 14
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	getQueueCount       = 17
	enableQueue         = 18
)

// Features: virtio 1 and this protocol's own; of those only that requests can ask for an acknowledgement. Neither indirect descriptors nor
// suppressed notifications: one request at a time needs none.
const (
	features         = 1<<32 | 1<<30 // VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES
	protocolFeatures = 1<<0 | 1<<3   // VHOST_USER_PROTOCOL_F_MQ (it brings getQueueCount), _REPLY_ACK

	version    = 1
	flagReply  = 1 << 2
	flagAck    = 1 << 3
	noFile     = 1 << 8 // of setKick, setCall, setError: no descriptor comes along
	maxPayload = 1024   // bytes; eight regions of memory, the longest message, have 264
	maxFiles   = 8      // descriptors of one message (VHOST_MEMORY_BASELINE_NREGIONS)
)

// message is one request with its descriptors.
type message struct {
	request uint32
	flags   uint32
	payload []byte
	files   []*os.File
}

// Serve answers one machine until it disconnects, which is no error.
func Serve(conn *net.UnixConn, d Device) error {
	b := &backend{conn: conn, queue: queue{device: d}}
	defer b.close()
	for {
		m, err := b.receive()
		ended := errors.Is(err, io.EOF)
		if err == nil {
			err = b.handle(m)
			m.close()
		}
		if failed := b.queue.failure(); failed != nil { // also the reason why readKicks ended the connection
			return fmt.Errorf("vhost-user: queue: %w", failed)
		}
		if ended {
			return nil
		}
		if err != nil {
			return fmt.Errorf("vhost-user: %w", err)
		}
	}
}

type backend struct {
	conn    *net.UnixConn
	queue   queue
	kicking sync.WaitGroup
	kick    *os.File // nil: none is read
}

func (m *message) close() {
	for _, f := range m.files {
		if f != nil {
			f.Close()
		}
	}
}

// take returns the message's one descriptor, or nil where it says that none comes.
func (m *message) take() (*os.File, error) {
	if value, err := m.number(); err != nil || value&noFile != 0 {
		return nil, err
	}
	if len(m.files) != 1 {
		return nil, fmt.Errorf("request %d: %d descriptors, expected one", m.request, len(m.files))
	}
	f := m.files[0]
	m.files = nil
	return f, nil
}

func (m *message) number() (uint64, error) {
	if len(m.payload) != 8 {
		return 0, m.malformed()
	}
	return binary.LittleEndian.Uint64(m.payload), nil
}

// state is struct vhost_vring_state: the queue's index, and a number. There is one queue.
func (m *message) state() (uint32, error) {
	if len(m.payload) != 8 || binary.LittleEndian.Uint32(m.payload) != 0 {
		return 0, m.malformed()
	}
	return binary.LittleEndian.Uint32(m.payload[4:]), nil
}

func (m *message) malformed() error {
	return fmt.Errorf("request %d: a payload of %d bytes that is not for a device with one queue", m.request, len(m.payload))
}

func (b *backend) receive() (*message, error) {
	header, control := make([]byte, 12), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, controlSize, _, _, err := b.conn.ReadMsgUnix(header, control)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	m := &message{files: files(control[:controlSize])}
	if err := b.rest(header[n:]); err != nil {
		m.close()
		return nil, err
	}
	m.request, m.flags = binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint32(header[4:])
	size := binary.LittleEndian.Uint32(header[8:])
	if size > maxPayload {
		m.close()
		return nil, fmt.Errorf("request %d: %d bytes, at most %d", m.request, size, maxPayload)
	}
	m.payload = make([]byte, size)
	if err := b.rest(m.payload); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// rest reads what has to follow.
func (b *backend) rest(into []byte) error {
	_, err := io.ReadFull(b.conn, into)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// files takes descriptors out of a control message.
func files(control []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	var all []*os.File
	for _, m := range messages {
		descriptors, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range descriptors {
			unix.CloseOnExec(fd)
			unix.SetNonblock(fd, true) // so that closing one ends a read of it
			all = append(all, os.NewFile(uintptr(fd), "vhost-user"))
		}
	}
	return all
}

// handle does what one message asks.
func (b *backend) handle(m *message) error {
	switch m.request {
	case getFeatures:
		return b.replyNumber(m, features)
	case getProtocolFeatures:
		return b.replyNumber(m, protocolFeatures)
	case getQueueCount:
		return b.replyNumber(m, 1)
	case getQueueBase:
		if _, err := m.state(); err != nil {
			return err
		}
		b.stopKicks()
		reply := make([]byte, 8)
		binary.LittleEndian.PutUint32(reply[4:], uint32(b.queue.stop()))
		return b.reply(m, reply)
	}
	if err := b.set(m); err != nil {
		return err
	}
	if m.flags&flagAck != 0 {
		return b.replyNumber(m, 0)
	}
	return nil
}

// set handles what has no answer but an acknowledgement.
func (b *backend) set(m *message) error {
	switch m.request {
	case setFeatures, setProtocolFeatures, setOwner, resetOwner, setError:
		return nil
	case setMemoryTable:
		memory, err := mapMemory(m)
		if err != nil {
			return err
		}
		b.queue.setMemory(memory)
		return nil
	case setQueueSize, setQueueBase, enableQueue:
		value, err := m.state()
		if err != nil {
			return err
		}
		return b.queue.set(m.request, value)
	case setQueueAddress:
		if len(m.payload) != 40 || binary.LittleEndian.Uint32(m.payload) != 0 {
			return m.malformed()
		}
		at := func(i int) uint64 { return binary.LittleEndian.Uint64(m.payload[i:]) }
		b.queue.setAddresses(addresses{descriptors: at(8), used: at(16), available: at(24)})
		return nil
	case setKick:
		f, err := m.take()
		if err == nil && f != nil {
			b.readKicks(f)
		}
		return err
	case setCall:
		f, err := m.take()
		if err == nil {
			b.queue.setCall(f)
		}
		return err
	}
	return fmt.Errorf("unknown request %d", m.request)
}

func (b *backend) replyNumber(m *message, value uint64) error {
	return b.reply(m, binary.LittleEndian.AppendUint64(nil, value))
}

func (b *backend) reply(m *message, payload []byte) error {
	out := binary.LittleEndian.AppendUint32(nil, m.request)
	out = binary.LittleEndian.AppendUint32(out, version|flagReply)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(payload)))
	_, err := b.conn.Write(append(out, payload...))
	return err
}

// readKicks works on the queue each time the machine says that something is there. The first look needs no kick: drivers kick before the
// queue is enabled.
func (b *backend) readKicks(kick *os.File) {
	b.stopKicks()
	b.kick = kick
	b.kicking.Add(1)
	go func() {
		defer b.kicking.Done()
		count := make([]byte, 8)
		for {
			if _, err := kick.Read(count); err != nil {
				return
			}
			if b.queue.work() != nil {
				b.conn.CloseRead() // ends Serve, which says why
				return
			}
		}
	}()
}

func (b *backend) stopKicks() {
	if b.kick == nil {
		return
	}
	b.kick.Close()
	b.kicking.Wait()
	b.kick = nil
}

func (b *backend) close() {
	b.stopKicks()
	b.queue.stop()
	b.queue.setCall(nil)
	b.queue.setMemory(nil)
}
