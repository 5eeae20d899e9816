package link_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/raypher/raypher/parent/link"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

const benchCallers = 64

// BenchmarkMint measures visas a second from the enclave process over TLS on its unix socket, each synced to the journal on
// disk before it is released, with 64 callers at once. Both ends share this machine. Compare with BenchmarkUnary.
func BenchmarkMint(b *testing.B) {
	dir := folder(b)
	benchConfiguration(b, dir)
	store := &countingStore{}
	p := startOver(b, dir, slog.New(slog.DiscardHandler), func(s link.Store) link.Store {
		store.Store = s
		return store
	})
	ctx := context.Background()
	requests := make([]*enclavev1.MintRequest, benchCallers)
	for i := range requests {
		requests[i] = request(b, fmt.Sprintf("agent-%d", i))
	}
	callers(b, p.PID(), func(i int) error {
		_, err := p.Mint(ctx, requests[i])
		return err
	})
	b.ReportMetric(float64(b.N)/float64(store.batches.Load()), "visas/batch")
}

// countingStore counts the batches, each of which is one signature and one sync.
type countingStore struct {
	link.Store
	batches atomic.Int64
}

func (s *countingStore) Append(b *enclavev1.Batch) error {
	s.batches.Add(1)
	return s.Store.Append(b)
}

// BenchmarkUnary is the same transport without an enclave: a plain unary call of the same sizes over a unix socket, no TLS,
// no signature, no disk, server and client in one process.
func BenchmarkUnary(b *testing.B) {
	server := grpc.NewServer()
	enclavev1.RegisterEnclaveServer(server, &echo{visa: make([]byte, 1200), permit: make([]byte, 200)})
	path := filepath.Join(b.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	go server.Serve(listener)
	defer server.Stop()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	client, r := enclavev1.NewEnclaveClient(conn), request(b, "agent")
	callers(b, 0, func(int) error {
		_, err := client.Mint(context.Background(), r)
		return err
	})
}

type echo struct {
	enclavev1.UnimplementedEnclaveServer
	visa, permit []byte
}

func (e *echo) Mint(context.Context, *enclavev1.MintRequest) (*enclavev1.MintReply, error) {
	return &enclavev1.MintReply{Visa: e.visa, Permit: e.permit}, nil
}

// callers shares b.N calls among benchCallers goroutines and reports calls a second, and processor time per call of this
// process and the other one (0: there is none). It collects garbage as seldom as raypherd does.
func callers(b *testing.B, other int, call func(caller int) error) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	var wait sync.WaitGroup
	b.ResetTimer()
	started, before := time.Now(), processorTime(b, other)
	for i := range benchCallers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for range work {
				if err := call(i); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wait.Wait()
	b.ReportMetric(float64(b.N)/time.Since(started).Seconds(), "calls/s")
	b.ReportMetric(float64((processorTime(b, other)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// processorTime is what this process and another one have used, in user and kernel mode.
func processorTime(b *testing.B, other int) time.Duration {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		b.Fatal(err)
	}
	used := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	if other == 0 {
		return used
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", other))
	if err != nil {
		b.Fatal(err)
	}
	// proc(5): after the name in brackets, utime and stime are fields 14 and 15, in ticks of 10 ms.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		used += time.Duration(ticks) * 10 * time.Millisecond
	}
	return used
}

// benchConfiguration lifts the rate limits out of the way.
func benchConfiguration(b *testing.B, dir string) {
	b.Helper()
	keys := filepath.Join(dir, "keys")
	caller := openCaller(b, keys)
	err := startconf.Write(keys, &startconf.Configuration{
		CallerKeys: []startconf.KeyHash{caller.Hash()}, Rate: startconf.MaxRate, AgentRate: startconf.MaxRate,
	})
	if err != nil {
		b.Fatal(err)
	}
}
