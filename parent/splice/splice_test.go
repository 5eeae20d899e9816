package splice

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// pair is a connection over loopback.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// What one side says arrives whole, its end too, and the other side may still answer.
func TestBothDirectionsAndTheirEnds(t *testing.T) {
	agent, left := pair(t)
	right, host := pair(t)
	done := make(chan struct{})
	go func() { defer close(done); Both(left, right) }()
	question := bytes.Repeat([]byte("question"), 100_000)
	go func() {
		agent.Write(question)
		agent.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(host); err != nil || !bytes.Equal(got, question) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	go func() {
		host.Write([]byte("answer"))
		host.Close()
	}()
	if got, err := io.ReadAll(agent); err != nil || string(got) != "answer" {
		t.Errorf("%q, %v", got, err)
	}
	<-done
}

// A side that breaks takes the other with it.
func TestABreakEndsBoth(t *testing.T) {
	agent, left := pair(t)
	right, host := pair(t)
	done := make(chan struct{})
	go func() { defer close(done); Both(left, right) }()
	host.(*net.TCPConn).SetLinger(0)
	host.Close()
	if _, err := agent.Read(make([]byte, 1)); err == nil {
		t.Error("the agent reads on")
	}
	<-done
}
