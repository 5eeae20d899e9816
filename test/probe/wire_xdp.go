package probe

import (
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The sizes of the memory that an XDP socket sends from: one frame is enough.
const (
	umemFrame  = 4096
	umemFrames = 2
	umemRing   = 2
)

// xdp sends the frame from an XDP socket, in copy mode, which every driver has (Documentation/networking/af_xdp.rst).
func (e emission) xdp() error {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	memory, err := unix.Mmap(-1, 0, umemFrame*umemFrames, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory)
	length := copy(memory, e.whole())
	register := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&memory[0]))), Len: umemFrame * umemFrames, Size: umemFrame}
	if err := setXDP(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&register), unsafe.Sizeof(register)); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, ring, umemRing); err != nil {
			return fmt.Errorf("ring %d: %w", ring, err)
		}
	}
	var offsets unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(offsets))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&offsets)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return errno
	}
	ring, err := unix.Mmap(fd, unix.XDP_PGOFF_TX_RING, int(offsets.Tx.Desc)+umemRing*int(unsafe.Sizeof(unix.XDPDesc{})),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	defer unix.Munmap(ring)
	l, err := net.InterfaceByName(e.link)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(l.Index)}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	*(*unix.XDPDesc)(unsafe.Pointer(&ring[offsets.Tx.Desc])) = unix.XDPDesc{Len: uint32(length)}
	*(*uint32)(unsafe.Pointer(&ring[offsets.Tx.Producer])) = 1
	if _, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func setXDP(fd, option int, value unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0); errno != 0 {
		return errno
	}
	return nil
}
