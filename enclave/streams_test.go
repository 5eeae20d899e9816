package enclave

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Of each kind of stream there is so many at once, those that say nothing yet among them; one more is refused, and when others end there is
// place again.
func TestStreamsOfOneKind(t *testing.T) {
	for _, c := range []struct {
		method string
		most   int
	}{
		{enclavev1.Enclave_Persist_FullMethodName, MaxStores},
		{enclavev1.Enclave_MintStream_FullMethodName, MaxMintStreams},
		{enclavev1.Enclave_Connect_FullMethodName, MaxCarried},
		{enclavev1.Enclave_Dial_FullMethodName, MaxStores},
	} {
		t.Run(c.method, func(t *testing.T) {
			r := serve(t)
			_, one := r.good(t)
			_, two := r.good(t)
			conns := []*grpc.ClientConn{one, two} // each has room for MaxStreams calls
			// open begins streams that send nothing, and returns how each ends.
			open := func(ctx context.Context, streams int) <-chan codes.Code {
				ended := make(chan codes.Code, streams)
				for i := range streams {
					stream, err := conns[i%2].NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, c.method)
					if err != nil {
						t.Fatal(err)
					}
					go func() { ended <- status.Code(stream.RecvMsg(&enclavev1.DialRequest{})) }()
				}
				return ended
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := open(ctx, c.most+1)
			refused := 0
			select {
			case code := <-ended:
				if code != codes.ResourceExhausted {
					t.Fatalf("the first that ended: %s", code)
				}
			case <-time.After(patience):
				t.Fatalf("%d streams are open", c.most+1)
			}
			cancel()
			for range c.most {
				if <-ended == codes.ResourceExhausted {
					refused++
				}
			}
			if refused != 0 {
				t.Errorf("%d of %d were refused too", refused, c.most)
			}
			for deadline := time.Now().Add(patience); ; { // the server learns a moment later that they ended
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				code := <-open(ctx, 1)
				cancel()
				if code != codes.ResourceExhausted {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("no place became free")
				}
			}
			r.alive(t)
		})
	}
}
