package enclave

import (
	"context"
	"testing"

	"github.com/raypher/raypher/enclave/conduit"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// The server's bounds leave room for every connection that an enclave may ask for, and for calls beside them.
func TestAllConnectionsAtOnce(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	asking, err := client.Dial(ctx)
	if err == nil {
		err = asking.Send(&enclavev1.DialResult{})
	}
	if err != nil {
		t.Fatal(err)
	}
	type dialed struct {
		close func() error
		err   error
	}
	for range conduit.MaxConnections {
		got := make(chan dialed, 1)
		go func() {
			conn, err := r.dial.DialContext(ctx, "host.example", 443)
			if err != nil {
				got <- dialed{err: err}
				return
			}
			got <- dialed{close: conn.Close}
		}()
		request, err := asking.Recv()
		if err != nil {
			t.Fatal(err)
		}
		stream, err := client.Connect(ctx)
		if err == nil {
			err = stream.Send(&enclavev1.Bytes{Number: request.GetNumber()})
		}
		if err != nil {
			t.Fatal(err)
		}
		conn := <-got
		if conn.err != nil {
			t.Fatal(conn.err)
		}
		defer conn.close()
	}
	calling, done := context.WithTimeout(ctx, patience/2)
	defer done()
	if _, err := client.Describe(calling, &enclavev1.DescribeRequest{}); err != nil {
		t.Errorf("a call beside them: %v", err)
	}
}
