package vhostuser

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// region is a part of the machine's memory: size bytes at guest, an address of the machine's, and at user, one of QEMU's.
type region struct {
	guest, user, size uint64
	content           []byte // size bytes
	mapping           []byte // what to unmap
}

// memory is all of it.
type memory []region

// maxMemory bounds one region, in bytes.
const maxMemory = 64 << 30

// mapMemory maps the regions of a message: their count, then 32 bytes for each.
func mapMemory(m *message) (memory, error) {
	if len(m.payload) < 8 {
		return nil, m.malformed()
	}
	count := int(binary.LittleEndian.Uint32(m.payload))
	if count > maxFiles || count != len(m.files) || len(m.payload) != 8+32*count {
		return nil, fmt.Errorf("memory of %d regions in %d bytes with %d descriptors", count, len(m.payload), len(m.files))
	}
	var all memory
	for i, file := range m.files {
		at := func(field int) uint64 { return binary.LittleEndian.Uint64(m.payload[8+32*i+8*field:]) }
		r := region{guest: at(0), size: at(1), user: at(2)}
		offset := at(3)
		if r.size == 0 || r.size > maxMemory || offset > maxMemory || r.guest+r.size < r.guest || r.user+r.size < r.user {
			all.unmap()
			return nil, fmt.Errorf("memory: a region of %d bytes at %#x", r.size, r.guest)
		}
		var err error
		r.mapping, err = unix.Mmap(int(file.Fd()), 0, int(offset+r.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			all.unmap()
			return nil, fmt.Errorf("map the machine's memory: %w: it has to be shared (memory-backend-memfd,share=on)", err)
		}
		r.content = r.mapping[offset:]
		all = append(all, r)
	}
	return all, nil
}

func (m memory) unmap() {
	for _, r := range m {
		unix.Munmap(r.mapping)
	}
}

// atGuest is n bytes at an address of the machine's, within one region.
func (m memory) atGuest(address, n uint64) ([]byte, error) {
	for _, r := range m {
		if address >= r.guest && address-r.guest < r.size && n <= r.size-(address-r.guest) {
			return r.content[address-r.guest:][:n:n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %#x are not in the machine's memory", n, address)
}

// atUser is the same for an address of QEMU's.
func (m memory) atUser(address, n uint64) ([]byte, error) {
	for _, r := range m {
		if address >= r.user && address-r.user < r.size && n <= r.size-(address-r.user) {
			return r.content[address-r.user:][:n:n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %#x are not in the memory that QEMU has shared", n, address)
}
