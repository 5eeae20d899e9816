package link

import (
	"context"
	"io"
	"runtime"
	"sync"
	"testing"

	"google.golang.org/grpc"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// answering is an enclave that grants everything. It counts the messages that it is sent.
type answering struct {
	enclavev1.EnclaveClient
	grpc.ClientStream
	results  chan *enclavev1.MintResults
	messages int
}

func (a *answering) MintStream(context.Context, ...grpc.CallOption) (enclavev1.Enclave_MintStreamClient, error) {
	return a, nil
}

func (a *answering) Send(requests *enclavev1.MintRequests) error {
	a.messages++
	granted := new(enclavev1.MintResults)
	for _, r := range requests.GetRequests() {
		granted.Results = append(granted.Results, &enclavev1.MintResult{Number: r.GetNumber(), Reply: &enclavev1.MintReply{Visa: []byte{1}}})
	}
	a.results <- granted
	return nil
}

func (a *answering) Recv() (*enclavev1.MintResults, error) {
	granted, open := <-a.results
	if !open {
		return nil, io.EOF
	}
	return granted, nil
}

// Callers that ask at the same time share messages, and each gets its answer. On one processor what runs when is known: the
// first caller wakes the sender, which must not run off with that one request.
func TestRequestsTravelTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const callers, rounds = 64, 20
	enclave := &answering{results: make(chan *enclavev1.MintResults, callers)}
	m := newMints(enclave)
	ctx, cancel := context.WithCancel(t.Context())
	var ended, wait sync.WaitGroup
	ended.Go(func() { m.run(ctx) })
	for range callers {
		wait.Go(func() {
			for range rounds {
				if reply, err := m.mint(t.Context(), &enclavev1.MintRequest{}); err != nil || len(reply.GetVisa()) != 1 {
					t.Errorf("%v, %v", reply, err)
				}
			}
		})
	}
	wait.Wait()
	cancel()
	close(enclave.results)
	ended.Wait()
	if most := callers * rounds / 8; enclave.messages > most {
		t.Errorf("%d requests travelled in %d messages, want at most %d", callers*rounds, enclave.messages, most)
	}
	t.Logf("%d requests, %d messages", callers*rounds, enclave.messages)
}
