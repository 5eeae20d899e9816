package enclave

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

func bundleOf(n int, first uint64) *enclavev1.MintRequests {
	b := new(enclavev1.MintRequests)
	for i := range n {
		b.Requests = append(b.Requests, &enclavev1.NumberedMintRequest{Number: first + uint64(i), Request: mintRequest()})
	}
	return b
}

// collect reads results until the stream ends, which it does after its bundles were answered and the sending side was closed.
func collect(t *testing.T, stream enclavev1.Enclave_MintStreamClient) (map[uint64]*enclavev1.MintResult, error) {
	t.Helper()
	got := map[uint64]*enclavev1.MintResult{}
	for {
		results, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		for _, r := range results.GetResults() {
			if got[r.GetNumber()] != nil {
				t.Errorf("two results for %d", r.GetNumber())
			}
			got[r.GetNumber()] = r
		}
	}
}

// Every request of a bundle has its own outcome, and what was asked before the sending side closed is answered.
func TestMintStream(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	stream, err := client.MintStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const bundles, each = 4, 50
	for i := range bundles {
		b := bundleOf(each, uint64(i*each))
		b.Requests[1].Request.Policy = []byte("no policy")
		b.Requests[2].Request = nil
		b.Requests[3].Request.TtlSeconds = 1 << 20
		if err := stream.Send(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	got, err := collect(t, stream)
	if err != nil || len(got) != bundles*each {
		t.Fatalf("%d results, %v", len(got), err)
	}
	for number, result := range got {
		want := codes.OK
		switch number % each {
		case 1, 2:
			want = codes.InvalidArgument
		case 3:
			want = codes.PermissionDenied
		}
		if codes.Code(result.GetCode()) != want || (result.GetReply() == nil) != (want != codes.OK) || (result.GetMessage() == "") != (want == codes.OK) {
			t.Errorf("%d: %v", number, result)
		}
	}
}

func TestMintStreamRefuses(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	for name, b := range map[string]*enclavev1.MintRequests{
		"an empty bundle": {}, "too many requests": bundleOf(MaxBundled+1, 0),
	} {
		stream, err := client.MintStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(b); err != nil {
			t.Fatal(err)
		}
		if _, err := collect(t, stream); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.alive(t)
}

// Without a store each request says so, and the stream goes on.
func TestMintStreamWithoutAStore(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	stream, err := client.MintStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2) {
		if err := stream.Send(bundleOf(1, i)); err != nil {
			t.Fatal(err)
		}
		results, err := stream.Recv()
		if err != nil || codes.Code(results.GetResults()[0].GetCode()) != codes.Unavailable {
			t.Errorf("%v, %v", results, err)
		}
	}
}

// A bug in one request of a bundle is an error of that request.
func TestPanicInABundle(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	r.mint = nil
	stream, err := client.MintStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(bundleOf(3, 0)); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	got, err := collect(t, stream)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d results, %v", len(got), err)
	}
	for number, result := range got {
		if codes.Code(result.GetCode()) != codes.Internal {
			t.Errorf("%d: %v", number, result)
		}
	}
	r.alive(t)
}

// Parents that ask and never read, or leave in the middle, hold up nobody else.
func TestMintStreamAbandoned(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	_, other := r.good(t)
	for i := range 6 {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := enclavev1.NewEnclaveClient(other).MintStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for b := bundleOf(MaxBundled, 0); stream.Send(b) == nil; {
			}
		}()
		if i%2 == 0 {
			cancel()
		}
		t.Cleanup(cancel)
	}
	stream, err := client.MintStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20) {
		if err := stream.Send(bundleOf(1, i)); err != nil {
			t.Fatal(err)
		}
		results, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if code := codes.Code(results.GetResults()[0].GetCode()); code != codes.OK && code != codes.ResourceExhausted {
			t.Errorf("%v", fmt.Sprint(results))
		}
	}
	r.alive(t)
}
