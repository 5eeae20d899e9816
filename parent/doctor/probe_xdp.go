package doctor

import (
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// XDPAt is an interface with an XDP program, whosever it is.
type XDPAt struct {
	Interface string
	Native    bool // in the driver, or a device's; else behind it
}

// lookAtXDP tries a wire as isolated agents get, in a network namespace of its own, and reads where programs sit.
func (f *Findings) lookAtXDP() {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := inNewNetwork(func() (err error) {
			f.XDPNative, err = attachXDP()
			return err
		})
		if back {
			runtime.UnlockOSThread()
		} // else the thread stays locked, as in tryTCX
		result <- err
	}()
	f.XDP = Probed{true, <-result}
	f.XDPAt = xdpNow()
}

// attachXDP says whether a veth takes a program in its driver; else it takes one behind it, or the error says why not.
func attachXDP() (native bool, err error) {
	program, err := ebpf.NewProgram(returns(ebpf.XDP, ebpf.AttachNone, 2)) // XDP_PASS
	if err != nil {
		return false, err
	}
	defer program.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "doctor"}, PeerName: "patient"}
	if err := netlink.LinkAdd(veth); err != nil {
		return false, err
	}
	if netlink.LinkSetXdpFdWithFlags(veth, program.FD(), unix.XDP_FLAGS_DRV_MODE) == nil {
		return true, nil
	}
	return false, netlink.LinkSetXdpFdWithFlags(veth, program.FD(), unix.XDP_FLAGS_SKB_MODE)
}

// xdpNow is where programs sit in this network namespace, but for the wires of agents.
func xdpNow() (at []XDPAt) {
	links, _ := netlink.LinkList() // what was read in part is shown
	for _, l := range links {
		if x := l.Attrs().Xdp; x != nil && x.Attached && !strings.HasPrefix(l.Attrs().Name, "ry-") { // package isolate
			at = append(at, XDPAt{l.Attrs().Name, slices.Contains([]uint32{nl.XDP_ATTACHED_DRV, nl.XDP_ATTACHED_HW}, x.AttachMode)})
		}
	}
	return at
}
