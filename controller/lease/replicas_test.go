package lease_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller"
	"github.com/raypher/raypher/controller/lease"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// Variables that make this test's program a replica.
const (
	replicaDatabase = "RAYPHER_TEST_DATABASE"
	replicaSocket   = "RAYPHER_TEST_SOCKET"
)

// named believes who a caller says that it is: what is tested is the database behind it.
type named struct{ caller.Callers }

func (named) Enclave(ctx context.Context, _ *store.Tx, _ string) (*caller.Enclave, error) {
	said, _ := metadata.FromIncomingContext(ctx)
	return &caller.Enclave{Host: said.Get("enclave-host")[0], Actor: said.Get("actor")[0]}, nil
}

// TestReplicaProcess is a replica of the controller in a process of its own; without its variables it is nothing.
func TestReplicaProcess(t *testing.T) {
	if os.Getenv(replicaDatabase) == "" {
		t.Skip("only as a process of TestReplicasKilledUnderLoad")
	}
	// Answers leave late, so that a kill finds steps that are in the database and not yet with the caller.
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		defer time.Sleep(10 * time.Millisecond)
		return next(ctx, request)
	}))
	controllerv1.RegisterLeasesServer(server, lease.New(lease.Options{DB: storetest.Open(t, os.Getenv(replicaDatabase)), Callers: named{}}))
	listener, err := net.Listen("unix", os.Getenv(replicaSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Fatal(server.Serve(listener))
}

// process is a replica that can be killed.
type process struct {
	socket string
	cmd    *exec.Cmd
}

func (p *process) start(t *testing.T, url string) {
	t.Helper()
	os.Remove(p.socket)
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestReplicaProcess$")
	p.cmd.Env = append(os.Environ(), replicaDatabase+"="+url, replicaSocket+"="+p.socket)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", p.socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func (p *process) client(t *testing.T) controllerv1.LeasesClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+p.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return controllerv1.NewLeasesClient(conn)
}

// clone counts for a host through whatever replica answers, and repeats with the same id what was not answered.
type clone struct {
	*testing.T
	name     string
	replicas []controllerv1.LeasesClient
	steps    []uint64
	all      *atomic.Int64 // steps of all clones
}

// ask makes a call at each replica in turn until one answers.
func ask[T any](c *clone, call func(context.Context, controllerv1.LeasesClient) (T, error)) (T, error) {
	for deadline, turn := time.Now().Add(time.Minute), 0; ; turn++ {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "enclave-host", "build-1", "actor", c.name)
		reply, err := call(ctx, c.replicas[turn%len(c.replicas)])
		if status.Code(err) != codes.Unavailable || time.Now().After(deadline) {
			return reply, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *clone) step() error {
	request := id()
	for {
		at, err := ask(c, func(ctx context.Context, s controllerv1.LeasesClient) (*controllerv1.LeaseCounter, error) {
			return s.Read(ctx, &controllerv1.ReadLeaseRequest{})
		})
		if err != nil {
			return err
		}
		got, err := ask(c, func(ctx context.Context, s controllerv1.LeasesClient) (*controllerv1.LeaseCounter, error) {
			return s.Take(ctx, &controllerv1.TakeLeaseRequest{Expected: at.GetCounter(), RequestId: request})
		})
		if status.Code(err) == codes.Aborted {
			request = id()
			continue
		}
		if err == nil {
			c.steps = append(c.steps, got.GetCounter())
			c.all.Add(1)
		}
		return err
	}
}

// TestReplicasKilledUnderLoad: two replicas are killed in turn, in the middle of what they do, while clones of a host count through
// both. Every step was given to exactly one clone: none is lost and none is doubled.
func TestReplicasKilledUnderLoad(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		dir := t.TempDir()
		processes := []*process{{socket: filepath.Join(dir, "a")}, {socket: filepath.Join(dir, "b")}}
		for _, p := range processes {
			p.start(t, url)
			defer func() { p.kill() }()
		}
		const clones, kills, between = 4, 6, 8
		var (
			all   sync.WaitGroup
			taken atomic.Int64
		)
		enough, counters := make(chan struct{}), make([]*clone, clones)
		for i := range counters {
			c := &clone{T: t, name: fmt.Sprint("clone ", i), all: &taken}
			for turn := range processes {
				c.replicas = append(c.replicas, processes[(i+turn)%len(processes)].client(t))
			}
			counters[i] = c
			all.Go(func() {
				for done := false; !done; {
					select {
					case <-enough:
						done = true
					default:
					}
					if err := c.step(); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for i := range kills {
			for goal := taken.Load() + between; taken.Load() < goal && !t.Failed(); {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(rand.N(30 * time.Millisecond)) // at any moment of a step
			p := processes[i%len(processes)]
			p.kill()
			p.start(t, url)
		}
		close(enough)
		all.Wait()
		seen, steps := map[uint64]string{}, 0
		for _, c := range counters {
			for _, n := range c.steps {
				if before, given := seen[n]; given {
					t.Errorf("step %d was given to %s and %s", n, before, c.name)
				}
				seen[n] = c.name
			}
			steps += len(c.steps)
		}
		at, err := ask(counters[0], func(ctx context.Context, s controllerv1.LeasesClient) (*controllerv1.LeaseCounter, error) {
			return s.Read(ctx, &controllerv1.ReadLeaseRequest{})
		})
		if err != nil || at.GetCounter() != uint64(steps) || steps < clones {
			t.Errorf("%d steps were given, the counter is at %d, %v", steps, at.GetCounter(), err)
		}
		t.Logf("%d steps over %d kills", steps, kills)
	})
}
