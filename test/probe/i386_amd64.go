package probe

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// playI386 makes getpid by int 0x80, where number 20 is of i386.
func playI386() int {
	const map32Bit = 0x40 // MAP_32BIT, which only amd64 has
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON|map32Bit)
	if err != nil {
		return 1
	}
	copy(page, []byte{0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3}) // mov $20, %eax; int $0x80; ret
	entry := unsafe.Pointer(&page[0])
	function := &entry // a func value points to the place of its code
	(*(*func())(unsafe.Pointer(&function)))()
	return 0
}
