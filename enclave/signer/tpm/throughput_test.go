package tpm_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/ceiling"
	sequencer "github.com/raypher/raypher/enclave/journal"
	"github.com/raypher/raypher/enclave/mint"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/enclave/signer/tpm"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/visa"
)

// slow makes each TPM2_Sign of a TPM take as long as it does on real chips.
type slow struct {
	transport.TPMCloser
	sign time.Duration
}

func (s slow) Send(command []byte) ([]byte, error) {
	if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCSign {
		end := time.Now().Add(s.sign)
		defer func() { time.Sleep(time.Until(end)) }()
	}
	return s.TPMCloser.Send(command)
}

// disk is an honest parent: it writes each batch to a file and syncs it before it acknowledges.
type disk struct {
	ctx  context.Context
	file *os.File
	up   chan *enclavev1.PersistRequest
}

func (d *disk) Context() context.Context       { return d.ctx }
func (d *disk) SendHeader(_ metadata.MD) error { return nil }

func (d *disk) Send(b *enclavev1.Batch) error {
	bytes, err := proto.Marshal(b)
	if err != nil {
		return err
	}
	if _, err := d.file.Write(bytes); err != nil {
		return err
	}
	if err := d.file.Sync(); err != nil {
		return err
	}
	d.up <- &enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: &enclavev1.PersistAck{
		Epoch: b.GetEpoch(), Size: b.GetFirstIndex() + uint64(len(b.GetEntries())),
	}}}
	return nil
}

func (d *disk) Recv() (*enclavev1.PersistRequest, error) {
	select {
	case m := <-d.up:
		return m, nil
	case <-d.ctx.Done():
		return nil, d.ctx.Err()
	}
}

const openCeiling = `
version: 1
trust_domain: raypher.local
grants:
  - namespace: "*"
    agents: ["*"]
    permit: {mode: enforce, filesystem: {read: ["/**"]}}
`

func ok[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newMint is an enclave without its transport: mint, journal and ceiling over a signer, with a store attached.
func newMint(t testing.TB, key signer.Signer) *mint.Mint {
	t.Helper()
	dir := t.TempDir()
	_, operator, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ceilings := ok(ceiling.OpenStore(dir, "raypher.local", [][]byte{ok(ceiling.PublicKey(operator))(t)}))(t)
	bundle := ok(ceiling.Sign(ok(ceiling.ParseSource("c", []byte(openCeiling)))(t), operator))(t)
	ok(ceilings.Install(bundle, nil))(t)
	configuration := &startconf.Configuration{TrustDomain: "raypher.local"}
	configuration.Defaults()
	configuration.Rate, configuration.AgentRate = 1<<30, 1<<30
	var epoch journal.EpochID
	rand.Read(epoch[:])
	s := ok(sequencer.New(sequencer.Options{Signer: key, Epoch: epoch, Configuration: configuration.Hash(), Log: slog.New(slog.DiscardHandler)}))(t)
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	parent := &disk{ctx: ctx, file: ok(os.Create(filepath.Join(dir, "journal")))(t), up: make(chan *enclavev1.PersistRequest, 4)}
	t.Cleanup(func() { parent.file.Close() })
	parent.up <- &enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: &enclavev1.Attach{}}}
	go s.Serve(parent)
	for s.Size() == 0 {
		runtime.Gosched()
	}
	return mint.New(mint.Options{Configuration: configuration, Ceiling: ceilings, Journal: s, Epoch: epoch, Tier: key.Tier()})
}

func request(t testing.TB, name string) *enclavev1.MintRequest {
	t.Helper()
	p := ok(policy.Parse("p", []byte("filesystem:\n  read: [\"/usr/**\"]\n")))(t)
	key := ok(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	hash := p.Hash()
	return &enclavev1.MintRequest{
		Policy: p.Canonical(), Name: name, ConfirmationKey: ok(visa.ConfirmationKey(&key.PublicKey))(t), PolicySourceHash: hash[:],
		Asserted: &enclavev1.Asserted{AgentId: name, Uid: 1000, User: "a", Home: "/home/a", Pid: 42, Backend: "broker", Host: "h"},
	}
}

// callers is how many ask for visas at once, each again as soon as it has one.
const callers = 1000

// BenchmarkVisas measures visas a second and their latency, from mint to synced journal, over signatures of a TPM (swtpm)
// that take as long as those of chips. Every visa is proven by a signature of the TPM; there is no other key.
func BenchmarkVisas(b *testing.B) {
	b.Run("software", func(b *testing.B) {
		key, _, err := software.Open(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		measureVisas(b, key)
	})
	ca := tpmtest.NewCA(b)
	for _, sign := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond} {
		b.Run(fmt.Sprintf("tpm/sign=%s", sign), func(b *testing.B) {
			device := ok(tpm.OpenDevice(tpmtest.Start(b, ca.Make(b)).Socket))(b)
			key, _, err := tpm.Open(b.Context(), tpm.Options{TPM: slow{device, sign}, State: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { key.Close() })
			measureVisas(b, key)
		})
	}
}

// measureVisas has each caller ask b.N/callers times, after one visa for each whose policy is decided on then: what is measured
// is the steady state. Garbage is collected as seldom as raypher-enclave does it.
func measureVisas(b *testing.B, key signer.Signer) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	m := newMint(b, key)
	requests := make([]*enclavev1.MintRequest, callers)
	for i := range requests {
		requests[i] = request(b, fmt.Sprintf("agent-%d", i))
	}
	askAll(b, m, requests, func(int) int { return 1 })
	b.ResetTimer()
	times := askAll(b, m, requests, func(caller int) int { return (b.N + caller) / callers })
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "visas/s")
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "ms-p99")
}

// askAll has every caller ask so many times, one after the other, and returns how long each visa took, shortest first.
func askAll(b *testing.B, m *mint.Mint, requests []*enclavev1.MintRequest, share func(caller int) int) []time.Duration {
	var wait sync.WaitGroup
	times := make([][]time.Duration, len(requests))
	for i, r := range requests {
		times[i] = make([]time.Duration, share(i))
		wait.Add(1)
		go func() {
			defer wait.Done()
			for n := range times[i] {
				began := time.Now()
				if _, err := m.Mint(context.Background(), r); err != nil {
					b.Error(err)
					return
				}
				times[i][n] = time.Since(began)
			}
		}()
	}
	wait.Wait()
	all := slices.Concat(times...)
	slices.Sort(all)
	return all
}

// A thousand callers over a slow TPM each get a visa that proves itself under the TPM's key.
func TestGroupCommit(t *testing.T) {
	device := ok(tpm.OpenDevice(tpmtest.Start(t, tpmtest.NewCA(t).Make(t)).Socket))(t)
	key, _, err := tpm.Open(t.Context(), tpm.Options{TPM: slow{device, 20 * time.Millisecond}, State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { key.Close() })
	m := newMint(t, key)
	verifier := visa.NewVerifier(visa.Options{Keys: []*journal.Key{ok(journal.NewKey(key.Public()))(t)}, Tiers: []string{journal.TierTPM}})
	var wait sync.WaitGroup
	for i := range callers {
		r := request(t, fmt.Sprintf("agent-%d", i))
		wait.Add(1)
		go func() {
			defer wait.Done()
			reply, err := m.Mint(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			if c, err := verifier.Verify(reply.GetVisa()); err != nil || c.Asserted.AgentID != r.GetName() {
				t.Errorf("%s: %+v, %v", r.GetName(), c, err)
			}
		}()
	}
	wait.Wait()
}
