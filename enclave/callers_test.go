package enclave

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// A caller that connects again is let in at once, and its oldest connection ends: no more than MaxCallers are held.
func TestOldestCallerMakesRoom(t *testing.T) {
	r := serve(t)
	var conns []*tls.Conn
	for range MaxCallers + 1 {
		conn, err := tls.Dial("unix", r.socket, r.tls(r.caller))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		if err := http2.NewFramer(conn, nil).WriteSettings(); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil { // the server's settings: it has let the connection in
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	ends := func(conn *tls.Conn, within time.Duration) bool {
		conn.SetReadDeadline(time.Now().Add(within))
		_, err := io.Copy(io.Discard, conn)
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	if !ends(conns[0], patience) {
		t.Error("the oldest connection goes on")
	}
	for _, conn := range conns[1:] {
		if ends(conn, 300*time.Millisecond) {
			t.Error("a younger connection was ended")
		}
	}
}

// A message of half a million elements is refused before it is decoded: on all streams at once they would take what a small enclave has.
func TestManyElements(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	if _, err := client.Record(t.Context(), &enclavev1.RecordRequest{Verdicts: make([][]byte, 400_000)}); err == nil || !strings.Contains(err.Error(), "fields") {
		t.Errorf("verdicts: %v", err)
	}
	requests := &enclavev1.MintRequests{Requests: make([]*enclavev1.NumberedMintRequest, 400_000)}
	for i := range requests.Requests {
		requests.Requests[i] = &enclavev1.NumberedMintRequest{}
	}
	stream, err := client.MintStream(t.Context())
	if err == nil {
		err = stream.Send(requests)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), "fields") {
		t.Errorf("requests: %v", err)
	}
	r.alive(t)
}

// Large requests have room for MaxLarge bytes together while they are answered, and no more; small ones pass beside them.
func TestLargeRequestsHaveRoomTogether(t *testing.T) {
	s := &Server{room: semaphore.NewWeighted(MaxLarge)}
	large := &enclavev1.InstallCeilingRequest{Bundle: make([]byte, MaxLarge/4)} // and a few bytes: three of them have room
	call := func(request any, then func()) error {
		_, err := s.guardUnary(t.Context(), request, &grpc.UnaryServerInfo{FullMethod: "test"}, func(context.Context, any) (any, error) {
			then()
			return nil, nil
		})
		return err
	}
	var within func(open int)
	within = func(open int) {
		err := call(large, func() {
			if open == 3 {
				t.Error("a fourth has room")
				return
			}
			within(open + 1)
		})
		if refused := status.Code(err) == codes.ResourceExhausted; refused != (open == 3) {
			t.Errorf("beside %d others: %v", open, err)
		}
		if open == 3 {
			if err := call(&enclavev1.DescribeRequest{}, func() {}); err != nil {
				t.Errorf("a small one: %v", err)
			}
		}
	}
	within(0)
	within(0) // what was answered has given its room back
}
