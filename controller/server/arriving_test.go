package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/connection"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// The oldest request on its way in makes room for a further one; those that are in do not count.
func TestOldestArrivalMakesRoom(t *testing.T) {
	var a arriving
	ended := make(map[int]bool)
	begin := func(i int) func() { return a.begin(func() { ended[i] = true }) }
	first := begin(0)
	var in []func()
	for i := 1; i < MaxArriving; i++ {
		in = append(in, begin(i))
	}
	if len(ended) != 0 {
		t.Fatalf("%v ended too early", ended)
	}
	in[0]() // the second is in
	in[0]()
	begin(1000)
	if len(ended) != 0 {
		t.Fatalf("%v ended though there was room", ended)
	}
	begin(1001)
	begin(1002)
	if len(ended) != 2 || !ended[0] || !ended[2] {
		t.Errorf("%v ended, want the first and the third", ended)
	}
	first() // it is out already
	if n := a.order.Len(); n != MaxArriving {
		t.Errorf("%d are counted", n)
	}
}

// Who begins more requests than there is room for, over many connections, and ends none, loses his oldest ones, and keeps nobody out.
func TestHalfRequestsKeepNobodyOut(t *testing.T) {
	s := newStranger(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	open := func() *grpc.ClientConn {
		conn, err := connection.Open(s.rpc, s.server, s.certificate)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	var first grpc.ClientStream
	for i := 0; i <= MaxArriving; {
		conn := open()
		for range MaxStreams {
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, controllerv1.Fleet_RemoveHost_FullMethodName)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = stream
			}
			i++
		}
	}
	if err := first.RecvMsg(&controllerv1.RemoveHostReply{}); err == nil || ctx.Err() != nil {
		t.Errorf("the oldest is waited for: %v", err)
	}
	// HTTP has its part of the same room.
	web, err := tls.Dial("tcp", s.web, startconf.PinnedTLS(s.certificate, s.server))
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	fmt.Fprint(web, "POST /v1/report HTTP/1.1\r\nHost: c\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	if _, err := controllerv1.NewFleetClient(open()).RemoveHost(ctx, &controllerv1.RemoveHostRequest{Name: "x"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("an honest call: %v", err)
	}
	conn := open()
	for range MaxArriving { // four connections
		if _, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, controllerv1.Fleet_RemoveHost_FullMethodName); err != nil {
			t.Fatal(err)
		}
		if conn = open(); ctx.Err() != nil {
			t.Fatal(ctx.Err())
		}
	}
	web.SetReadDeadline(time.Now().Add(20 * time.Second))
	var late net.Error
	if answer, err := bufio.NewReader(web).ReadString('\n'); errors.As(err, &late) && late.Timeout() || err != nil && !errors.Is(err, io.EOF) && answer != "" {
		t.Errorf("the body that never ends is waited for: %q, %v", answer, err)
	}
}

// Large requests have room for MaxLarge bytes together while they are answered, and no more; small ones pass beside them.
func TestLargeRequestsHaveRoomTogether(t *testing.T) {
	room := semaphore.NewWeighted(MaxLarge)
	large := &controllerv1.PutMeasurementsRequest{List: make([]byte, MaxReceive-16)}
	var give []func()
	for range MaxLarge / MaxReceive {
		g, err := takeRoom(room, large)
		if err != nil {
			t.Fatal(err)
		}
		give = append(give, g)
	}
	if _, err := takeRoom(room, large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	if _, err := takeRoom(room, &controllerv1.PutMeasurementsRequest{List: make([]byte, largeRequest-16)}); err != nil {
		t.Errorf("a small one: %v", err)
	}
	give[0]()
	if _, err := takeRoom(room, large); err != nil {
		t.Errorf("after one was answered: %v", err)
	}
}
