package netguard

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/raypher/raypher/policy"
)

// TestPeerOfASocketThatConnectsAgain: the address that an agent's socket had before is nobody's, though the socket lives: whoever gets it next
// is not taken for the agent.
func TestPeerOfASocketThatConnectsAgain(t *testing.T) {
	w := newWorld(t)
	var l net.Listener
	w.in(t, w.near, func() {
		var err error
		l, err = net.Listen("tcp", ownEnds[0].String())
		must(t, err)
	})
	defer l.Close()
	g := w.load(t, Options{Own: ownEnds})
	a := w.newAgent(t, "agent")
	arm(t, g, a, nil, policy.Enforce)
	p := w.startProbe(t, a.fd)
	var remotes []netip.AddrPort
	for _, do := range []string{"open", "again"} {
		done := make(chan outcome)
		go func() { done <- p.do(action{Do: do, To: ownEnds[0], Data: "hello", Patience: answerPatience}) }()
		conn, err := l.Accept()
		must(t, err)
		defer conn.Close()
		must(t, second(conn.Write([]byte(answer))))
		if o := <-done; o.Data != answer {
			t.Fatalf("%s: %+v", do, o)
		}
		remotes = append(remotes, conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	}
	time.Sleep(peerClosed + 100*time.Millisecond)
	for i, want := range []bool{false, true} {
		if _, ok := g.Peer(6, ownEnds[0], remotes[i]); ok != want {
			t.Errorf("connection %d: an agent's: %v, want %v", i+1, ok, want)
		}
	}
}
