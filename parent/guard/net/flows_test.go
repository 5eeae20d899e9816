package netguard

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestHping: of 10,000 packets that hping3 makes by hand none arrives, whatever their protocol, and each is counted.
func TestHping(t *testing.T) {
	tool, err := exec.LookPath("hping3")
	if err != nil {
		t.Skip("hping3 is not installed: scripts/deps.sh")
	}
	const each = 2500
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.capture(t)
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	hping := func(words ...string) (string, error) {
		cmd := exec.Command(tool, append(words, "-q", "-n", "10.77.0.2")...)
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: a.fd}
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		var err error
		w.in(t, w.near, func() { err = cmd.Start() })
		if err == nil {
			err = cmd.Wait()
		}
		return said.String(), err
	}
	arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.2"}}, policy.Enforce)
	if said, err := hping("-S", "-p", "80", "-c", "1"); err == nil || w.sees(make([]byte, 8)) {
		t.Errorf("an enforced agent has a raw socket: %s", said)
	}
	// In mode audit it has one, and all that it makes may leave, until an operator cuts it off.
	arm(t, g, a, nil, policy.Audit)
	w.forget()
	if _, err := hping("-2", "-p", "80", "-c", "1"); err != nil {
		t.Logf("hping3 ends with %v", err) // for want of an answer
	}
	if _, packets := w.forget(); len(packets) == 0 {
		t.Fatal("the honest sibling did not arrive: hping3 sends nothing here")
	}
	w.settle()
	must(t, g.Cut(a.id, []Cut{{}}))
	before := trafficOf(t, g, a, nil)["cut"].DroppedPackets
	for _, kind := range [][]string{{"-S", "-p", "80"}, {"-2", "-p", "80"}, {"-1"}, {"-A", "-p", "80", "-a", "10.77.0.77"}} {
		if said, err := hping(append(kind, "-c", strconv.Itoa(each), "-i", "u20")...); err != nil && !strings.Contains(said, "packets transmitted") {
			t.Fatalf("hping3 %v: %v\n%s", kind, err, said)
		}
	}
	if arrived, packets := w.rest(); len(arrived)+len(packets) != 0 {
		t.Errorf("%d arrived, %d packets", len(arrived), len(packets))
	}
	if n := trafficOf(t, g, a, nil)["cut"].DroppedPackets - before; n != 4*each {
		t.Errorf("%d packets were counted as dropped, want %d", n, 4*each)
	}
}

// TestExitMidFlow: what the kernel still sends for a process that is gone is judged as the agent's; when the agent is gone as well, nothing
// leaves and nothing of it stays in the maps.
func TestExitMidFlow(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.capture(t)
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.2"}}, policy.Enforce)
	first, last := w.startProbe(t, a.fd), w.startProbe(t, a.fd)
	for _, p := range []*probe{first, last} {
		p.expect(action{Do: "open", To: mustAddr("10.77.0.2:80")}, "", answer)
	}
	w.settle()
	must(t, first.cmd.Process.Kill())
	first.cmd.Wait()
	if !eventually(func() bool { _, packets := w.forget(); return len(packets) > 0 }) {
		t.Error("the end of a granted flow did not arrive")
	}
	w.settle()
	must(t, g.Disarm(a.id))
	must(t, last.cmd.Process.Kill())
	last.cmd.Wait()
	if arrived, packets := w.rest(); len(arrived)+len(packets) != 0 {
		t.Errorf("of an agent that is gone the far end saw %q %q", arrived, packets)
	}
	all, err := g.Traffic()
	must(t, err)
	if len(all[a.id]) != 0 {
		t.Errorf("counters of an agent that is gone: %+v", all[a.id])
	}
}

func eventually(is func() bool) bool {
	for range 200 {
		if is() {
			return true
		}
		syscall.Select(0, nil, nil, nil, &syscall.Timeval{Usec: 10_000})
	}
	return false
}

// TestSocketGivenAway: a socket that an agent made is the agent's, whoever sends on it.
func TestSocketGivenAway(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.capture(t)
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.2"}}, policy.Enforce)
	for _, do := range []string{"open", "open-udp"} {
		p := w.startProbe(t, a.fd)
		p.expect(action{Do: do, To: mustAddr("10.77.0.2:80")}, "", answer)
		fd := takeSocket(t, p.cmd.Process.Pid)
		w.settle()
		if _, err := unix.Write(fd, []byte("from outside")); err != nil || !eventually(func() bool { arrived, _ := w.forget(); return len(arrived) > 0 }) {
			t.Errorf("%s: what is granted did not arrive: %v", do, err)
		}
		w.settle()
		must(t, g.Replace(a.id, &policy.Network{Egress: []string{"10.77.0.3"}}))
		for range 3 {
			unix.Write(fd, []byte("from outside"))
		}
		if arrived, packets := w.rest(); len(arrived)+len(packets) != 0 {
			t.Errorf("%s: the far end saw %q %q", do, arrived, packets)
		}
		must(t, g.Replace(a.id, &policy.Network{Egress: []string{"10.77.0.2"}}))
		unix.Close(fd)
		p.cmd.Process.Kill()
		w.settle()
	}
}

// TestSocketOfAnother: what one agent may reach is not reached by a socket of another, though it acts itself.
func TestSocketOfAnother(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.serve(t, w.far, mustAddr("10.77.0.2:90"))
	w.capture(t)
	g := w.load(t, Options{})
	maker, user := w.newAgent(t, "maker"), w.newAgent(t, "user")
	arm(t, g, maker, &policy.Network{Egress: []string{"10.77.0.2:80"}}, policy.Enforce)
	arm(t, g, user, &policy.Network{Egress: []string{"10.77.0.2:80", "10.77.0.2:90"}}, policy.Enforce)
	p := w.startProbe(t, maker.fd)
	p.expect(action{Do: "serve-udp", To: mustAddr("10.77.0.1:0")}, "", "")
	must(t, os.WriteFile(filepath.Join(w.cgroupPath, "user", "cgroup.procs"), []byte(strconv.Itoa(p.cmd.Process.Pid)), 0))
	for range 3 { // without a state of the socket, and with one
		p.expect(action{Do: "tell", To: mustAddr("10.77.0.2:90"), Data: "of another"}, silence, "")
	}
	w.settle()
	if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
		t.Errorf("the far end saw %q %q", arrived, packets)
	}
	if o := p.do(action{Do: "tell", To: mustAddr("10.77.0.2:80"), Data: "of both"}); o.Err != "" {
		t.Errorf("what both may reach: %+v", o)
	}
}

// takeSocket copies the only internet socket of a process.
func takeSocket(t *testing.T, pid int) int {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	defer unix.Close(pidfd)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, path := range fds {
		number, err := strconv.Atoi(filepath.Base(path))
		must(t, err)
		if link, _ := os.Readlink(path); !strings.HasPrefix(link, "socket:") {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		must(t, err)
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_INET {
			return fd
		}
		unix.Close(fd)
	}
	t.Fatal("the probe has no socket")
	return -1
}

// TestRefusalsAreNamed: the first refusal of a flow names the process, the destination, the name behind it and what refused it.
func TestRefusalsAreNamed(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	events := record(t, g)
	a := w.newAgent(t, "agent")
	n := &policy.Network{Egress: []string{"private a.example.com:80", "0.0.0.0/0:81"}}
	arm(t, g, a, n, policy.Enforce)
	must(t, g.GrantName(a.id, "a.example.com", far4, 80, time.Hour))
	p := w.startProbe(t, a.fd)
	for _, c := range []struct {
		to, name string
		reserved bool
	}{{"10.77.0.2:443", "a.example.com", false}, {"10.77.1.2:443", "", false}, {"127.0.0.1:81", "", true}} {
		p.do(action{Do: "udp", To: mustAddr(c.to), Data: "hello"})
		p.do(action{Do: "udp", To: mustAddr(c.to), Data: "hello"})
		e := events.wait(t, c.to, func(e Event) bool { return e.Destination == mustAddr(c.to) })
		if e.Name != c.name || e.Reserved != c.reserved || e.PID != uint32(p.cmd.Process.Pid) || e.Comm == "" || e.Reason != NotGranted {
			t.Errorf("%s: event %+v", c.to, e)
		}
	}
	must(t, g.Cut(a.id, []Cut{{Name: "a.example.com"}}))
	p.do(action{Do: "udp", To: mustAddr("10.77.0.2:80"), Data: "hello"})
	if e := events.wait(t, "of the cut", func(e Event) bool { return e.Reason == Severed }); e.Name != "a.example.com" {
		t.Errorf("of the cut: event %+v", e)
	}
}
