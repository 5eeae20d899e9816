package warden

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// pass is the visa in force: its bytes, and the file of an agent whose opens are not notified.
type pass struct {
	mutex   sync.Mutex
	current []byte
	file    *os.File // nil: opening the visa's path is answered by the broker
}

func (p *pass) get() []byte {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.current
}

func (p *pass) set(visa []byte) error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.current = visa
	if p.file == nil {
		return nil
	}
	if _, err := p.file.WriteAt(visa, 0); err != nil {
		return fmt.Errorf("write the visa: %w", err)
	}
	if err := p.file.Truncate(int64(len(visa))); err != nil {
		return fmt.Errorf("write the visa: %w", err)
	}
	return nil
}

// VisaFile makes a file in memory that holds a visa, and returns its descriptor, which is inherited by what is executed. It is
// for agents whose file accesses are not notified: they find the visa at /proc/<pid>/fd/<descriptor>. An agent that changes it
// deceives nobody but itself: a visa is signed.
func VisaFile(visa []byte) (int, error) {
	fd, err := unix.MemfdCreate("raypher-visa", unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate("raypher-visa", 0)
	}
	if err != nil {
		return -1, fmt.Errorf("make a file for the visa: %w", err)
	}
	if _, err := unix.Write(fd, visa); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("write the visa: %w", err)
	}
	return fd, nil
}
