package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/instance"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// connected returns both ends of a unix connection.
func connected(t *testing.T) (here, there *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	there, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	here, err = l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	// A test that waits for the end of a connection fails when it does not come.
	if err := there.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return here, there
}

// TestUnixPeer: the kernel says who is at the other end of a unix socket; nothing else is asked.
func TestUnixPeer(t *testing.T) {
	here, _ := connected(t)
	c, owner, limit, err := unixPeer(here)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if c.task.PID() != os.Getpid() || c.uid != uint32(os.Getuid()) || c.groups[0] != uint32(os.Getgid()) || limit != maxConnectionsPerUser {
		t.Errorf("%+v of %s, at most %d", c, owner, limit)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	conn, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, _, err := unixPeer(conn); err == nil {
		t.Error("a TCP connection was taken for one of a unix socket")
	}
}

// TestMembers: root and the members of the group operate raypherd; without a group, root alone.
func TestMembers(t *testing.T) {
	for _, c := range []struct {
		name   string
		group  int
		caller caller
		in     bool
	}{
		{"root", 100, caller{uid: 0}, true},
		{"root without a group", -1, caller{uid: 0}, true},
		{"a member", 100, caller{uid: 1000, groups: []uint32{1000, 100}}, true},
		{"no member", 100, caller{uid: 1000, groups: []uint32{1000}}, false},
		{"a user where there is no group", -1, caller{uid: 1000, groups: []uint32{1000, 0, 0xffffffff}}, false},
	} {
		s := &Server{options: Options{Group: c.group, Paths: instance.Paths{Socket: "/nonexistent"}}}
		if err := s.asMember(&c.caller); (err == nil) != c.in || err != nil && !errors.Is(err, agents.ErrNotAllowed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestLoopbackOutsiders: who connects over TCP and is no agent is told so at every call, and at none gets further.
func TestLoopbackOutsiders(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var asked []netip.AddrPort
	s := &Server{options: Options{
		Agents: agents.NewHost(agents.Options{}),
		Peer: func(proto uint8, local, remote netip.AddrPort) (uint64, bool) {
			asked = append(asked, local, remote)
			return 7, true // a cgroup that is no agent's
		},
	}}
	c, _, limit, err := s.loopbackPeer(conn)
	if err != nil || limit != maxConnectionsPerAgent || len(asked) != 2 || asked[1].String() != conn.RemoteAddr().String() {
		t.Fatalf("%+v, %d, %v, %v", c, limit, asked, err)
	}
	for _, method := range []string{
		"/" + parentv1.Agent_ServiceDesc.ServiceName + "/Whoami", "/grpc.health.v1.Health/Check",
	} {
		ctx := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: c})
		if err := s.allow(ctx, method); !errors.Is(err, errNotGoverned) {
			t.Errorf("%s: %v", method, err)
		}
	}
	if err := s.allow(context.Background(), "/"+parentv1.Agent_ServiceDesc.ServiceName+"/Whoami"); err == nil {
		t.Error("a connection without a caller was let in")
	}
}

// TestQuota: one owner's connections are bounded, those of others are not touched, and an ended one makes room once.
func TestQuota(t *testing.T) {
	const limit = 3
	q := &quota{}
	identify := func(owner string) *transport {
		return &transport{quota: q, identify: func(net.Conn) (*caller, string, int, error) { return &caller{}, owner, limit, nil }}
	}
	open := func(owner string) (net.Conn, net.Conn, error) {
		here, there := connected(t)
		conn, _, err := identify(owner).ServerHandshake(here)
		return conn, there, err
	}
	var held []net.Conn
	for range limit {
		conn, _, err := open("a")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	_, there, err := open("a")
	if err == nil || !strings.Contains(err.Error(), "a has 3 connections, which is the limit") {
		t.Errorf("one more: %v", err)
	}
	if n, err := there.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Error("a connection beyond the limit stays open")
	}
	if _, _, err := open("b"); err != nil {
		t.Errorf("another owner: %v", err)
	}
	held[0].Close()
	held[0].Close() // makes room once
	if _, _, err := open("a"); err != nil {
		t.Errorf("after one ended: %v", err)
	}
	if _, _, err := open("a"); err == nil {
		t.Error("one connection was let go of twice")
	}
}

// TestUnidentified: a connection whose caller is not found out is closed.
func TestUnidentified(t *testing.T) {
	here, there := connected(t)
	nobody := &transport{quota: &quota{}, identify: func(net.Conn) (*caller, string, int, error) { return nil, "", 0, errors.New("gone") }}
	if _, _, err := nobody.ServerHandshake(here); err == nil {
		t.Error("let in")
	}
	if n, err := there.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Error("stays open")
	}
}
