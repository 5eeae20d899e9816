package xdpguard

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/policy"
)

// burst is how many frames are sent in one go.
const burst = 1 << 16

// BenchmarkDrop is what a dropped frame costs at the host end of a wire, sent and received on one core: by this guard with 1,000 rules, and
// by nftables at the device's ingress with a set of the same. The rounds follow one another, so that both see the same machine.
func BenchmarkDrop(b *testing.B) {
	if _, err := exec.LookPath("nft"); err != nil {
		b.Skip("nft is not installed: there is nothing to compare with")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var one unix.CPUSet
	one.Set(0)
	must(b, unix.SchedSetaffinity(0, &one))
	w := newBenchWire(b)
	var ours, theirs float64
	for b.Loop() {
		w.hold(b)
		ours += w.flood(b)
		w.release(b)
		w.table(b, true)
		theirs += w.flood(b)
		w.table(b, false)
	}
	n := float64(b.N)
	b.ReportMetric(ours/n, "xdp-pps")
	b.ReportMetric(theirs/n, "nft-pps")
	b.ReportMetric(ours/theirs, "ratio")
	b.ReportMetric(0, "ns/op")
}

// benchWire is a wire between two namespaces, without an agent's process.
type benchWire struct {
	*host
	guard *Guard
	link  netlink.Link // host end
	wire  Wire
	send  *ebpf.Program
	pass  *ebpf.Program
	frame []byte
	names []string
}

func newBenchWire(b testing.TB) *benchWire {
	w := &benchWire{host: newHost(b)}
	w.guard = w.load(b)
	n := &policy.Network{}
	for i := range 1000 {
		w.names = append(w.names, fmt.Sprintf("10.%d.%d.0/24", 100+i/250, i%250))
	}
	n.Egress = w.names
	must(b, w.host.guard.Arm(netguard.Agent{CgroupID: w.cgroup, Network: n, Mode: policy.Enforce, Deadline: 1 << 62}))
	w.wire = Wire{
		CgroupID: w.cgroup, Agent4: netip.MustParseAddr("198.18.0.2"), Host4: netip.MustParseAddr("198.18.0.1"),
		AgentMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, HostMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
	}
	inside := w.far
	var index int
	within(b, w.ns, func() {
		must(b, netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "ry-bench", HardwareAddr: w.wire.HostMAC}, PeerName: "eth0",
			PeerHardwareAddr: w.wire.AgentMAC, PeerNamespace: netlink.NsFd(inside),
		}))
		var err error
		w.link, err = netlink.LinkByName("ry-bench")
		must(b, err)
		must(b, netlink.LinkSetUp(w.link))
	})
	within(b, inside, func() {
		l, err := netlink.LinkByName("eth0")
		must(b, err)
		must(b, netlink.LinkSetUp(l))
		lo, err := netlink.LinkByName("lo")
		must(b, err)
		must(b, netlink.LinkSetUp(lo))
		index = l.Attrs().Index
	})
	var err error
	w.send, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
	}})
	must(b, err)
	w.pass, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	must(b, err)
	b.Cleanup(func() { w.send.Close(); w.pass.Close() })
	w.frame = benchFrame(w.wire)
	return w
}

// benchFrame is a datagram to 203.0.113.9, which nothing grants.
func benchFrame(w Wire) []byte {
	f := append(append(append([]byte{}, w.HostMAC...), w.AgentMAC...), 8, 0)
	f = append(f, 0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17, 0, 0)
	f = append(append(f, w.Agent4.AsSlice()...), 203, 0, 113, 9)
	return append(f, append([]byte{15, 160, 0, 80, 0, 26, 0, 0}, make([]byte, 18)...)...)
}

func (w *benchWire) hold(b *testing.B) {
	within(b, w.ns, func() {
		native, err := w.guard.Attach(w.link, w.wire)
		must(b, err)
		if !native {
			b.Fatal("generic")
		}
	})
}

func (w *benchWire) release(b *testing.B) {
	d, err := w.guard.Of(w.cgroup)
	must(b, err)
	if d.Packets < burst*9/10 {
		b.Fatalf("%d of %d frames were dropped by the program", d.Packets, burst)
	}
	within(b, w.ns, func() {
		must(b, w.guard.Forget(w.link.Attrs().Index, w.cgroup))
		must(b, netlink.LinkSetXdpFd(w.link, w.pass.FD())) // a veth takes frames in one go only where a program sits
	})
}

func (w *benchWire) table(b *testing.B, make bool) {
	script := "delete table netdev bench"
	if make {
		script = `table netdev bench {
	set granted { type ipv4_addr; flags interval; elements = { ` + strings.Join(w.names, ", ") + ` } }
	chain ingress { type filter hook ingress device "ry-bench" priority 0; policy accept; ip daddr @granted accept; counter drop; }
}`
	} else {
		w.counted(b)
	}
	w.nft(b, script)
}

// counted holds that the table saw the burst.
func (w *benchWire) counted(b *testing.B) {
	var packets uint64
	_, rest, _ := strings.Cut(w.nft(b, "list table netdev bench\n"), "counter packets ")
	fmt.Sscan(rest, &packets)
	if packets < burst*9/10 {
		b.Fatalf("%d of %d frames were dropped by nftables", packets, burst)
	}
}

func (w *benchWire) nft(b *testing.B, script string) string {
	var out []byte
	within(b, w.ns, func() {
		c := exec.Command("nft", "-f", "-")
		c.Stdin = strings.NewReader(script)
		var err error
		if out, err = c.CombinedOutput(); err != nil {
			b.Fatalf("nft: %v: %s", err, out)
		}
	})
	return string(out)
}

// threadTime is the processor time of this thread, in which the other end's interrupts are served: what others do meanwhile does not count.
func threadTime(b *testing.B) time.Duration {
	var t unix.Timespec
	must(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t))
	return time.Duration(t.Nano())
}

// BenchmarkProgram is what the program alone takes for a frame of a flow that it has dropped before, without the way there, in the best of
// its rounds; some 25 ns of it are the kernel's loop.
func BenchmarkProgram(b *testing.B) {
	w := newBenchWire(b)
	must(b, w.guard.lay(loopback, w.wire))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	best := time.Duration(1 << 62) // of many short rounds: what else runs on the machine interrupts the others
	for b.Loop() {
		verdict, took, err := w.guard.objects.RaypherWire.Benchmark(w.frame, burst/16, nil)
		must(b, err)
		if verdict != 1 { // XDP_DROP
			b.Fatalf("verdict %d", verdict)
		}
		best = min(best, took)
	}
	b.ReportMetric(float64(best.Nanoseconds()), "ns/frame")
	b.ReportMetric(0, "ns/op")
}

// flood sends a burst from the agent's end and returns how many frames a second were sent and judged.
func (w *benchWire) flood(b *testing.B) (perSecond float64) {
	within(b, w.far, func() {
		begun := threadTime(b)
		_, err := w.send.Run(&ebpf.RunOptions{Data: w.frame, Repeat: burst, BatchSize: 64, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
		must(b, err)
		perSecond = burst / (threadTime(b) - begun).Seconds()
	})
	return perSecond
}
