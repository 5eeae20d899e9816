package isolate

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestQueues: a veth hands what was sent on a queue that its other end does not have to the stack there, past the program (drivers/net/veth.c,
// veth_xmit). So there is one queue, and root inside makes no more.
func TestQueues(t *testing.T) {
	w := newWorld(t)
	g := w.newGuest(&policy.Network{Egress: []string{far4.String() + ":80"}})
	within(t, g.ns, func() {
		for _, queues := range []channels{{rx: 2, tx: 2}, {rx: 2, tx: 1}, {rx: 1, tx: 2}} {
			if err := setChannels(agentEnd, queues); err == nil {
				t.Errorf("the agent's end has %d queues to receive and %d to send", queues.rx, queues.tx)
			}
		}
	})
}

// channels are those of <linux/ethtool.h> that a veth has.
type channels struct{ rx, tx uint32 }

func setChannels(name string, c channels) error {
	const setChannels = 0x3d // ETHTOOL_SCHANNELS
	request := struct{ command, maxRx, maxTx, maxOther, maxCombined, rx, tx, other, combined uint32 }{command: setChannels, rx: c.rx, tx: c.tx}
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:], name)
	ifr.data = unsafe.Pointer(&request)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		return errno
	}
	return nil
}
