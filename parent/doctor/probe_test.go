package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// TestMain lets the test binary look at the host as another user: with this variable set it prints its report and ends.
func TestMain(m *testing.M) {
	if os.Getenv("DOCTOR_TEST_LOOK") != "" {
		if err := json.NewEncoder(os.Stdout).Encode(Interpret(Look(context.Background(), Places{}))); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func TestLookAtThisHost(t *testing.T) {
	needRoot(t)
	f := Look(t.Context(), Places{State: "/var/lib/raypher", Journal: "/var/lib/raypher/journal", Group: "raypher", EnclaveUser: "raypher-enclave"})
	if _, _, ok := version(f.Kernel); !ok {
		t.Errorf("kernel %q", f.Kernel)
	}
	if f.Clock.Now.IsZero() || f.Clock.Newest.IsZero() || f.FreeBytes == 0 && f.FreeErr == nil || !f.EntropyReady {
		t.Errorf("clock, disk or entropy not looked at: %+v", f)
	}
	if !f.privileged() {
		t.Skip("root without CAP_BPF: the rest of this test needs it")
	}
	for name, p := range map[string]Probed{"BPF LSM": f.BPFLSM, "tcx": f.TCX, "XDP": f.XDP, "ring buffer": f.RingBuffer, "notification": f.Notification} {
		if !p.Tried {
			t.Errorf("%s was not tried", name)
		}
	}
	if len(f.CgroupHooks) != len(cgroupHooks) && f.Cgroup2 != "" {
		t.Errorf("tried %d of %d hooks", len(f.CgroupHooks), len(cgroupHooks))
	}
	for _, c := range Interpret(f).Checks {
		if c.Status == Fail {
			t.Logf("this host: %s: %s", c.Name, c.Found)
		}
	}
}

// Looking must not change the host: no cgroup, no namespace of this process, no program left.
func TestLookLeavesNoTrace(t *testing.T) {
	needRoot(t)
	namespace := func() string {
		link, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	before := namespace()
	f := Look(t.Context(), Places{})
	if after := namespace(); after != before {
		t.Errorf("network namespace was %s, is %s", before, after)
	}
	if f.Cgroup2 != "" {
		left, err := filepath.Glob(filepath.Join(f.Cgroup2, "raypher-doctor-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("cgroups left: %v, %v", left, err)
		}
	}
	for _, fd := range openFiles(t) {
		if strings.Contains(fd, "bpf") {
			t.Errorf("descriptor left: %s", fd)
		}
	}
}

func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			names = append(names, name)
		}
	}
	return names
}

func TestLookAsPlainUser(t *testing.T) {
	needRoot(t) // to become someone else
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "DOCTOR_TEST_LOOK=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var r Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	if r.Complete {
		t.Error("a plain user cannot see everything")
	}
	for _, c := range r.Checks {
		switch c.Name {
		case "cgroup programs", "tcx", "BPF ring buffer", "cgroup/connect_unix":
			if c.Status != Info || !strings.Contains(c.Found, "needs root") {
				t.Errorf("%+v", c)
			}
		case "Landlock", "seccomp notification":
			if strings.Contains(c.Found, "needs root") {
				t.Errorf("anyone can look at this: %+v", c)
			}
		}
	}
}

// operator answers Status and nothing else.
type operator struct {
	parentv1.UnimplementedOperatorServer
	reply *parentv1.StatusReply
	hang  bool
}

func (o *operator) Status(ctx context.Context, _ *parentv1.StatusRequest) (*parentv1.StatusReply, error) {
	if o.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return o.reply, nil
}

func serve(t *testing.T, o *operator) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "raypherd.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	parentv1.RegisterOperatorServer(s, o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return socket
}

func TestLookAtDaemon(t *testing.T) {
	t.Run("answers", func(t *testing.T) {
		var f Findings
		f.lookAtDaemon(t.Context(), serve(t, &operator{reply: &parentv1.StatusReply{Tier: "software", EnclaveReachable: true}}))
		if f.Daemon.Err != nil || f.Daemon.Status.GetTier() != "software" {
			t.Errorf("got %+v", f.Daemon)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		f := healthy()
		f.lookAtDaemon(ctx, serve(t, &operator{hang: true}))
		if c := checkDaemon(f); c.Status != Fail || !strings.Contains(c.Found, "no answer") {
			t.Errorf("got %+v", c)
		}
	})
	t.Run("absent", func(t *testing.T) {
		f := healthy()
		f.lookAtDaemon(t.Context(), filepath.Join(t.TempDir(), "raypherd.sock"))
		if c := checkDaemon(f); c.Found != "not running" {
			t.Errorf("got %+v", c)
		}
	})
	t.Run("socket left behind", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "raypherd.sock")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		f := healthy()
		f.lookAtDaemon(t.Context(), socket)
		if c := checkDaemon(f); c.Found != "not running" {
			t.Errorf("got %+v", c)
		}
	})
}

// TestWhereXDPSits: programs are found at interfaces, in the driver or behind it.
func TestWhereXDPSits(t *testing.T) {
	needRoot(t)
	for flags, want := range map[int]XDPAt{unix.XDP_FLAGS_DRV_MODE: {"port", true}, unix.XDP_FLAGS_SKB_MODE: {"port", false}} {
		var at []XDPAt
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with this goroutine, whichever namespace it is in
			_, err := inNewNetwork(func() error {
				program, err := ebpf.NewProgram(returns(ebpf.XDP, ebpf.AttachNone, 2))
				if err != nil {
					return err
				}
				defer program.Close()
				for _, name := range []string{"port", "ry-000000000000"} {
					veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name[:2] + "peer"}
					if err := errors.Join(netlink.LinkAdd(veth), netlink.LinkSetXdpFdWithFlags(veth, program.FD(), flags)); err != nil {
						return err
					}
				}
				at = xdpNow()
				return nil
			})
			done <- err
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(at) != 1 || at[0] != want {
			t.Errorf("found %+v, want %+v", at, want)
		}
	}
}
