// Command guest is the first process of a virtual machine with vsock loopback. It tries each step of package pid1 on a real kernel
// and says on the console what it found; the last line is GUEST PASS or GUEST FAIL.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/enclave/pid1"
)

func main() {
	err := try()
	if err == nil {
		fmt.Println("GUEST PASS")
	} else {
		fmt.Println("GUEST FAIL", err)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func try() error {
	if !pid1.Is() {
		return fmt.Errorf("process %d, %q, is not taken for the first one", os.Getpid(), os.Args)
	}
	start, err := pid1.ReadStart(pid1.Orders)
	if err != nil {
		return err
	}
	if err := pid1.SetUp(pid1.Modules); err != nil {
		return err
	}
	if err := found(); err != nil {
		return err
	}
	return heartbeats(start.HeartbeatCID)
}

// found checks what SetUp has made.
func found() error {
	for _, path := range []string{"/proc/self/status", "/sys/devices/system/clocksource", "/dev/random", "/dev/vsock"} {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil || lo.Flags&net.FlagUp == 0 {
		return fmt.Errorf("lo is not up: %v, %v", lo, err)
	}
	return nil
}

// heartbeats tries hosts that answer rightly, wrongly and not at all.
func heartbeats(cid uint32) error {
	for _, c := range []struct {
		name   string
		answer []byte // nil: nobody listens
		want   string // in the error; empty: none
	}{
		{"the same byte", []byte{0xb7}, ""},
		{"another byte", []byte{0xb8}, "the answer is 0xb8"},
		{"an end", []byte{}, "no answer"},
		{"nobody", nil, "connection reset by peer"},
	} {
		err := heartbeat(cid, c.answer)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			return fmt.Errorf("heartbeat answered by %s: %v, want %q", c.name, err, c.want)
		}
		fmt.Printf("GUEST heartbeat answered by %s: %v\n", c.name, err)
	}
	return nil
}

func heartbeat(cid uint32, answer []byte) error {
	if answer == nil {
		return pid1.Heartbeat(cid)
	}
	l, err := vsock.ListenContextID(cid, pid1.HeartbeatPort, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	received := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			received <- err
			return
		}
		defer conn.Close()
		beat := make([]byte, 1)
		if _, err := io.ReadFull(conn, beat); err != nil || beat[0] != 0xb7 {
			received <- fmt.Errorf("the host received %x, %v", beat, err)
			return
		}
		_, err = conn.Write(answer)
		received <- err
	}()
	return errors.Join(pid1.Heartbeat(cid), <-received)
}
