package sandbox

import "golang.org/x/sys/unix"

const auditArchitecture = unix.AUDIT_ARCH_X86_64

// allowedHere are calls that only this architecture has. Numbers with the x32 bit (0x40000000) are none of those listed.
var allowedHere = []uint32{unix.SYS_EPOLL_WAIT}
