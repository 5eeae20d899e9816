package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Layout of a split virtqueue (virtio 1.2, section 2.7).
const (
	descriptorSize = 16
	flagNext       = 1
	flagWrite      = 2
	maxQueue       = 1024 // descriptors
	ringHeader     = 4    // bytes of flags and index before a ring's entries
)

// addresses are those of the three parts of the queue, in QEMU's memory.
type addresses struct{ descriptors, used, available uint64 }

// queue is the one queue. Its lock is held while a request is answered.
type queue struct {
	device Device

	mu        sync.Mutex
	memory    memory
	size      uint32
	addresses addresses
	next      uint16 // the entry of the available ring that comes next
	enabled   bool
	call      *os.File // how the machine is told; nil: not at all
	request   []byte   // a request whose buffer for the answer has not come yet
	posted    *uint16  // its chain
	failed    error
}

func (q *queue) setMemory(m memory) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.memory.unmap()
	q.memory = m
}

func (q *queue) setAddresses(a addresses) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addresses = a
}

func (q *queue) set(request, value uint32) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch request {
	case setQueueSize:
		if value == 0 || value > maxQueue || value&(value-1) != 0 {
			return fmt.Errorf("a queue of %d descriptors", value)
		}
		q.size = value
	case setQueueBase:
		q.next = uint16(value)
	case enableQueue:
		q.enabled = value != 0
		return q.workLocked() // what was kicked before is there already
	}
	return nil
}

// setCall changes how the machine is told, and tells it at once: what was told before may have gone nowhere.
func (q *queue) setCall(f *os.File) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.call != nil {
		q.call.Close()
	}
	q.call = f
	if q.enabled {
		q.notify()
	}
}

// stop ends the work and returns where it stopped.
func (q *queue) stop() uint16 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.enabled, q.request, q.posted = false, nil, nil
	return q.next
}

// failure is why no more work is done.
func (q *queue) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failed
}

func (q *queue) work() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.workLocked()
}

func (q *queue) workLocked() error {
	if !q.enabled || q.failed != nil {
		return q.failed
	}
	q.failed = q.serve()
	return q.failed
}

// rings are the three parts of the queue.
type rings struct{ descriptors, used, available []byte }

func (q *queue) rings() (r rings, err error) {
	n := uint64(q.size)
	var errs [3]error
	r.descriptors, errs[0] = q.memory.atUser(q.addresses.descriptors, descriptorSize*n)
	r.used, errs[1] = q.memory.atUser(q.addresses.used, ringHeader+8*n)
	r.available, errs[2] = q.memory.atUser(q.addresses.available, ringHeader+2*n)
	if err := errors.Join(errs[:]...); err != nil {
		return r, err
	}
	if q.size == 0 || uintptr(unsafe.Pointer(&r.used[0]))%4 != 0 || uintptr(unsafe.Pointer(&r.available[0]))%4 != 0 {
		return r, errors.New("the rings have no size, or are not aligned")
	}
	return r, nil
}

// index is the upper half of a ring's first word; the lower half is flags. Reading and writing it orders the entries around it.
func index(ring []byte) *uint32 { return (*uint32)(unsafe.Pointer(&ring[0])) }

// serve answers what is there. The driver posts a request and the buffer for its answer as two chains (drivers/misc/nsm.c,
// nsm_sendrecv_msg_locked); one chain with both is taken too.
func (q *queue) serve() error {
	r, err := q.rings()
	if err != nil {
		return err
	}
	told := false
	for uint16(atomic.LoadUint32(index(r.available))>>16) != q.next {
		head := binary.LittleEndian.Uint16(r.available[ringHeader+2*(uint32(q.next)%q.size):])
		q.next++
		readable, writable, err := q.chain(r.descriptors, head)
		if err != nil {
			return err
		}
		if len(q.request)+len(readable) > q.device.MaxRequest {
			return fmt.Errorf("a request of more than %d bytes", q.device.MaxRequest)
		}
		if len(writable) == 0 {
			if q.posted != nil {
				return errors.New("two requests without a buffer for an answer")
			}
			q.request, q.posted = readable, &head
			continue
		}
		if q.posted != nil {
			q.done(r.used, *q.posted, 0)
			readable = append(q.request, readable...)
			q.request, q.posted = nil, nil
		}
		answer, written := q.device.Answer(readable), 0
		for _, buffer := range writable {
			written += copy(buffer, answer[written:])
		}
		if written < len(answer) {
			return fmt.Errorf("an answer of %d bytes, and room for %d", len(answer), written)
		}
		q.done(r.used, head, uint32(written))
		told = true
	}
	if told {
		q.notify()
	}
	return nil
}

// chain collects the buffers of a chain: copies of what is to be read, and what may be written.
func (q *queue) chain(descriptors []byte, head uint16) (readable []byte, writable [][]byte, err error) {
	at := uint32(head)
	for range q.size { // a longer chain is a loop
		if at >= q.size {
			return nil, nil, fmt.Errorf("descriptor %d of %d", at, q.size)
		}
		d := descriptors[descriptorSize*at:][:descriptorSize]
		size, flags := binary.LittleEndian.Uint32(d[8:]), binary.LittleEndian.Uint16(d[12:])
		at = uint32(binary.LittleEndian.Uint16(d[14:]))
		buffer, err := q.memory.atGuest(binary.LittleEndian.Uint64(d), uint64(size))
		if err != nil {
			return nil, nil, err
		}
		switch {
		case flags&^(flagNext|flagWrite) != 0:
			return nil, nil, fmt.Errorf("a descriptor with flags %#x", flags)
		case flags&flagWrite != 0:
			writable = append(writable, buffer)
		case len(readable)+len(buffer) > q.device.MaxRequest:
			return nil, nil, fmt.Errorf("a request of more than %d bytes", q.device.MaxRequest)
		default:
			readable = append(readable, buffer...)
		}
		if flags&flagNext == 0 {
			return readable, writable, nil
		}
	}
	return nil, nil, errors.New("a chain of descriptors without end")
}

// done gives a chain back.
func (q *queue) done(used []byte, head uint16, written uint32) {
	word := index(used)
	at := uint16(atomic.LoadUint32(word) >> 16)
	entry := used[ringHeader+8*(uint32(at)%q.size):]
	binary.LittleEndian.PutUint32(entry, uint32(head))
	binary.LittleEndian.PutUint32(entry[4:], written)
	atomic.StoreUint32(word, uint32(at+1)<<16) // flags 0: the machine is to kick
}

func (q *queue) notify() {
	if q.call != nil {
		q.call.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // an eventfd; a machine that is gone hears nothing
	}
}
