package hostile

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// clients are authenticated connections that speak the protocol.
func (r *run) clients(n int) (all []enclavev1.EnclaveClient, end func(), err error) {
	var conns []*grpc.ClientConn
	end = func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for range n {
		conn, err := grpc.NewClient("passthrough:///enclave",
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return r.Dial() }),
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{r.Caller}, InsecureSkipVerify: true, NextProtos: []string{"h2"}})),
			grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig())
		if err != nil {
			end()
			return nil, nil, err
		}
		conns = append(conns, conn)
		all = append(all, enclavev1.NewEnclaveClient(conn))
	}
	return all, end, nil
}

// everywhere makes calls on many connections at once, as many as there are streams. What they come to is not looked at.
func (r *run) everywhere(ctx context.Context, each int, call func(context.Context, enclavev1.EnclaveClient, int)) error {
	clients, end, err := r.clients(14) // two are left for the honest parent
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, waiting)
	defer cancel()
	var wait sync.WaitGroup
	for _, client := range clients {
		for i := range each {
			wait.Go(func() { call(ctx, client, i) })
		}
	}
	wait.Wait()
	return nil
}

func allStreams(ctx context.Context, r *run) error {
	return r.everywhere(ctx, 256, func(ctx context.Context, c enclavev1.EnclaveClient, i int) {
		var stream grpc.ClientStream
		var err error
		if i%2 == 0 {
			stream, err = c.Persist(ctx)
		} else {
			stream, err = c.MintStream(ctx)
		}
		if err == nil {
			_ = stream.RecvMsg(new(enclavev1.Batch)) // until the enclave ends it
		}
	})
}

// large is a request of nearly the largest size, with what no field is for.
func large() *enclavev1.MintRequest {
	m := request("stalled")
	unknown := append([]byte{0xfa, 0x7f, 0x80, 0x80, 0x3c}, make([]byte, 960<<10)...) // field 2047, as long as it says: 60 << 14
	m.ProtoReflect().SetUnknown(unknown)
	return m
}

func largeMessages(ctx context.Context, r *run) error {
	evidence := make([]byte, 1000<<10)
	return r.everywhere(ctx, 128, func(ctx context.Context, c enclavev1.EnclaveClient, i int) {
		switch i % 4 {
		case 0:
			_, _ = c.Mint(ctx, &enclavev1.MintRequest{Policy: evidence, Name: "stalled"})
		case 1:
			_, _ = c.Record(ctx, &enclavev1.RecordRequest{Verdicts: [][]byte{evidence}})
		case 2:
			_, _ = c.InstallCeiling(ctx, &enclavev1.InstallCeilingRequest{Bundle: evidence})
		case 3:
			stream, err := c.Persist(ctx)
			for n := 0; err == nil && n < 4; n++ {
				err = stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: &enclavev1.Attach{KeyEvidence: evidence}}})
			}
		}
	})
}

// stalled attaches as a store that is as good as the honest one, and then says nothing: what is asked for waits.
func (r *run) stalled(ctx context.Context, c enclavev1.EnclaveClient) error {
	stream, err := c.Persist(ctx)
	if err == nil {
		err = stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: r.store.Attach()}})
	}
	if err == nil {
		_, err = stream.Header()
	}
	return err
}

func largeStalled(ctx context.Context, r *run) error {
	clients, end, err := r.clients(1)
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, waiting)
	defer cancel()
	var wait sync.WaitGroup
	wait.Go(func() { // the honest parent takes over again and again
		for ctx.Err() == nil {
			_ = r.stalled(ctx, clients[0])
			time.Sleep(20 * time.Millisecond)
		}
	})
	message := large()
	r.minted += 14 * (100 + 20*4)
	err = r.everywhere(ctx, 120, func(ctx context.Context, c enclavev1.EnclaveClient, i int) {
		if i%6 != 0 {
			_, _ = c.Mint(ctx, message)
			return
		}
		stream, err := c.MintStream(ctx)
		for n := uint64(0); err == nil && n < 4; n++ {
			err = stream.Send(&enclavev1.MintRequests{Requests: []*enclavev1.NumberedMintRequest{{Number: n, Request: message}}})
		}
		if err == nil {
			_, _ = stream.Recv()
		}
	})
	cancel()
	wait.Wait()
	return err
}

func garbageMessages(ctx context.Context, r *run) error {
	return r.everywhere(ctx, 60, func(ctx context.Context, c enclavev1.EnclaveClient, i int) {
		garbage := noise(1 + i*997)
		_, _ = c.Mint(ctx, &enclavev1.MintRequest{Policy: garbage, Name: string(garbage[:1]), ConfirmationKey: garbage})
		_, _ = c.Record(ctx, &enclavev1.RecordRequest{Verdicts: [][]byte{garbage}})
		_, _ = c.InstallCeiling(ctx, &enclavev1.InstallCeilingRequest{Bundle: garbage})
		_, _ = c.InstallGrant(ctx, &enclavev1.InstallGrantRequest{Grant: garbage})
		_, _ = c.Attest(ctx, &enclavev1.AttestRequest{Nonce: garbage})
		_, _ = c.DescribeKey(ctx, &enclavev1.DescribeKeyRequest{Purpose: string(garbage), Nonce: garbage})
		_, _ = c.TLSCertificate(ctx, &enclavev1.TLSCertificateRequest{Visa: garbage})
		_, _ = c.TLSSign(ctx, &enclavev1.TLSSignRequest{Visa: garbage, TranscriptHash: garbage})
		if stream, err := c.MintStream(ctx); err == nil {
			_ = stream.Send(&enclavev1.MintRequests{Requests: []*enclavev1.NumberedMintRequest{{}, nil, {Request: &enclavev1.MintRequest{Policy: garbage}}}})
			_, _ = stream.Recv()
		}
		if stream, err := c.Persist(ctx); err == nil {
			_ = stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: &enclavev1.Attach{Epoch: garbage, Size: uint64(i), SignedHead: garbage, KeyEvidence: garbage}}})
			_, _ = stream.Recv()
		}
	})
}

// lyingAttach says of a store what contradicts the journal. None of it may be taken.
func lyingAttach(ctx context.Context, r *run) error {
	good := r.store.Attach()
	lie := func(change func(*enclavev1.Attach)) *enclavev1.Attach {
		bent := proto.CloneOf(good)
		change(bent)
		return bent
	}
	clients, end, err := r.clients(1)
	if err != nil {
		return err
	}
	defer end()
	for name, a := range map[string]*enclavev1.Attach{
		"an empty store":   {},
		"another head":     lie(func(a *enclavev1.Attach) { a.SignedHead[len(a.SignedHead)-1] ^= 1 }),
		"no head":          lie(func(a *enclavev1.Attach) { a.SignedHead = nil }),
		"more entries":     lie(func(a *enclavev1.Attach) { a.Size += 5 }),
		"all entries":      lie(func(a *enclavev1.Attach) { a.Size = 1<<64 - 1 }),
		"fewer entries":    lie(func(a *enclavev1.Attach) { a.Size-- }),
		"another epoch":    lie(func(a *enclavev1.Attach) { a.Epoch[0] ^= 1 }),
		"an epoch of more": lie(func(a *enclavev1.Attach) { a.Epoch = append(a.Epoch, 0) }),
	} {
		attempt, cancel := context.WithTimeout(ctx, waiting)
		stream, err := clients[0].Persist(attempt)
		if err == nil {
			err = stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: a}})
		}
		if err == nil {
			_, err = stream.Recv()
		}
		timedOut := attempt.Err() != nil
		cancel()
		if err == nil || timedOut {
			return fmt.Errorf("%s was taken: %v", name, err)
		}
	}
	return nil
}

// lyingAcks attaches as a good store and acknowledges what it was not sent. Its calls must not be answered by that.
func lyingAcks(ctx context.Context, r *run) error {
	clients, end, err := r.clients(2)
	if err != nil {
		return err
	}
	defer end()
	for name, bend := range map[string]func(*enclavev1.PersistAck){
		"another epoch":   func(a *enclavev1.PersistAck) { a.Epoch[0] ^= 1 },
		"no epoch":        func(a *enclavev1.PersistAck) { a.Epoch = nil },
		"the future":      func(a *enclavev1.PersistAck) { a.Size += 7 },
		"all there is":    func(a *enclavev1.PersistAck) { a.Size = 1<<64 - 1 },
		"nothing":         func(a *enclavev1.PersistAck) { a.Size = 0 },
		"what was before": func(a *enclavev1.PersistAck) { a.Size-- },
	} {
		if err := r.lieAbout(ctx, clients, bend); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// lieAbout answers a batch with an acknowledgement that bend makes of the right one.
func (r *run) lieAbout(ctx context.Context, clients []enclavev1.EnclaveClient, bend func(*enclavev1.PersistAck)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		stream, err := clients[0].Persist(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: r.store.Attach()}}); err != nil {
			return err
		}
		asked := make(chan error, 1)
		asking, stop := context.WithCancel(ctx)
		r.minted++
		go func() {
			_, err := clients[1].Mint(asking, request("stalled"))
			asked <- err
		}()
		batch, err := stream.Recv()
		if err != nil { // the honest parent was faster
			stop()
			<-asked
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		ack := &enclavev1.PersistAck{Epoch: batch.GetEpoch(), Size: batch.GetFirstIndex() + uint64(len(batch.GetEntries()))}
		bend(ack)
		_ = stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: ack}})
		_, err = stream.Recv()
		stop()
		<-asked
		if err == nil {
			return errors.New("the enclave sent another batch")
		}
		return nil
	}
}

func stallingStore(ctx context.Context, r *run) error {
	clients, end, err := r.clients(2)
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	wait.Go(func() {
		for ctx.Err() == nil {
			_ = r.stalled(ctx, clients[0])
			time.Sleep(5 * time.Millisecond)
		}
	})
	const calls = 2000
	r.minted += calls
	for range calls {
		wait.Go(func() { _, _ = clients[1].Mint(ctx, request("stalled")) })
	}
	wait.Wait()
	return nil
}
