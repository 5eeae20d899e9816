package warden

import (
	"bytes"
	"os"
	"testing"
)

// TestConversation: messages of any size arrive whole, with their descriptors, and keep their kinds.
func TestConversation(t *testing.T) {
	for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 5*chunk + 7, 1 << 20} {
		a, b, err := NewConversation()
		if err != nil {
			t.Fatal(err)
		}
		body := bytes.Repeat([]byte{1, 2, 3}, size/3+1)[:size]
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- a.Send(Listener, body, int(null.Fd())) }()
		kind, got, fds, err := b.Receive()
		if err != nil || kind != Listener || !bytes.Equal(got, body) || len(fds) != 1 {
			t.Errorf("%d bytes: kind %q, %d bytes, descriptors %v, %v", size, kind, len(got), fds, err)
		}
		for _, fd := range fds {
			os.NewFile(uintptr(fd), "received").Close()
		}
		b.Close() // ends a sender whose message was not taken whole
		if err := <-sent; err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		null.Close()
		a.Close()
	}
}
