package enclave

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/visa"
)

// patience bounds waits; nothing is asserted about time.
const patience = 30 * time.Second

// running is a served enclave and the key that may call it.
type running struct {
	*Server
	socket string
	caller tls.Certificate
	end    func() // stops it; once
}

func certificate(t testing.TB) (tls.Certificate, startconf.KeyHash) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sha256.Sum256(spki)
}

func serve(t testing.TB) *running {
	t.Helper()
	return serveWith(t, func(*Options) {})
}

func serveWith(t testing.TB, edit func(*Options)) *running {
	t.Helper()
	dir := t.TempDir()
	key, _, err := software.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	leases, err := lease.OpenSoftware(dir)
	if err != nil {
		t.Fatal(err)
	}
	caller, hash := certificate(t)
	configuration := &startconf.Configuration{CallerKeys: []startconf.KeyHash{hash}}
	configuration.Defaults()
	options := Options{
		Signer: key, Leases: leases, Configuration: configuration, State: dir, Development: true, Version: "test",
		Log: slog.New(slog.DiscardHandler), handshake: 200 * time.Millisecond,
	}
	edit(&options)
	s, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, socket: filepath.Join(dir, "s"), caller: caller}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	r.end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the server does not stop")
		}
	})
	t.Cleanup(r.end)
	return r
}

func (r *running) tls(certificates ...tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: certificates, InsecureSkipVerify: true, NextProtos: []string{"h2"}} // the parent's checks are tested in parent/link
}

func (r *running) client(t testing.TB, creds credentials.TransportCredentials) (enclavev1.EnclaveClient, *grpc.ClientConn) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+r.socket, grpc.WithTransportCredentials(creds), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return enclavev1.NewEnclaveClient(conn), conn
}

func (r *running) good(t testing.TB) (enclavev1.EnclaveClient, *grpc.ClientConn) {
	return r.client(t, credentials.NewTLS(r.tls(r.caller)))
}

// alive checks that the server still answers its caller.
func (r *running) alive(t testing.TB) {
	t.Helper()
	client, conn := r.good(t)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := client.Describe(ctx, &enclavev1.DescribeRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("the server no longer answers its caller: %v", err)
	}
}

// keepStore plays an honest parent's store until the test ends.
func keepStore(t testing.TB, client enclavev1.EnclaveClient) {
	t.Helper()
	keepStoreOf(t, client, func(*enclavev1.Batch) {})
}

// keepStoreOf is keepStore for a test that looks at each batch.
func keepStoreOf(t testing.TB, client enclavev1.EnclaveClient, keep func(*enclavev1.Batch)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := client.Persist(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: &enclavev1.Attach{}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		defer wait.Done()
		for {
			b, err := stream.Recv()
			if err != nil {
				return
			}
			keep(b)
			ack := &enclavev1.PersistAck{Epoch: b.GetEpoch(), Size: b.GetFirstIndex() + uint64(len(b.GetEntries()))}
			stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: ack}})
		}
	}()
	t.Cleanup(func() { cancel(); wait.Wait() })
}

// Only the key in the start configuration gets an answer.
func TestWhoMayCall(t *testing.T) {
	r := serve(t)
	stranger, _ := certificate(t)
	old := r.tls(r.caller)
	old.MaxVersion = tls.VersionTLS12
	for name, c := range map[string]struct {
		creds credentials.TransportCredentials
		want  bool
	}{
		"the caller":     {credentials.NewTLS(r.tls(r.caller)), true},
		"a stranger":     {credentials.NewTLS(r.tls(stranger)), false},
		"no certificate": {credentials.NewTLS(r.tls()), false},
		"TLS 1.2":        {credentials.NewTLS(old), false},
		"no TLS":         {insecure.NewCredentials(), false},
		"someone else's certificate, own key": {credentials.NewTLS(r.tls(tls.Certificate{
			Certificate: r.caller.Certificate, PrivateKey: stranger.PrivateKey,
		})), false},
	} {
		client, _ := r.client(t, c.creds)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := client.Describe(ctx, &enclavev1.DescribeRequest{})
		cancel()
		if (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// With an operator key in its configuration an enclave makes neither key nor ceiling, and does not say that it did.
func TestDevelopmentWithAnOperator(t *testing.T) {
	operator, _, err := ceiling.DevelopmentKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	public, err := ceiling.PublicKey(operator)
	if err != nil {
		t.Fatal(err)
	}
	r := serveWith(t, func(o *Options) { o.Configuration.OperatorKeys = [][]byte{public} })
	client, _ := r.good(t)
	d, err := client.Describe(t.Context(), &enclavev1.DescribeRequest{})
	if err != nil || d.GetDevelopment() || d.GetCeilingVersion() != 0 {
		t.Errorf("%v %v", d, err)
	}
}

// Without a store the enclave says what it is, and grants and records nothing.
func TestWithoutAStore(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	ctx := t.Context()
	d, err := client.Describe(ctx, &enclavev1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if d.GetTier() != "software" || !d.GetDevelopment() || d.GetCeilingVersion() != 1 || d.GetTtlSeconds() != 300 || len(d.GetEpoch()) != 16 {
		t.Errorf("%v", d)
	}
	verdict, err := journal.EncodeVerdict(journal.Verdict{Time: 1, AgentID: "a", Subject: "s", Decision: journal.Block, Layer: "x", Operation: "y", Target: "z", Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, recordErr := client.Record(ctx, &enclavev1.RecordRequest{Verdicts: [][]byte{verdict}})
	_, installErr := client.InstallCeiling(ctx, &enclavev1.InstallCeilingRequest{Bundle: []byte("x")})
	for name, err := range map[string]error{"record": recordErr, "install": installErr} {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	keepStore(t, client)
	if _, err := client.Record(ctx, &enclavev1.RecordRequest{Verdicts: [][]byte{verdict}}); err != nil {
		t.Errorf("with a store: %v", err)
	}
}

func TestAttest(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	nonce := []byte("a fresh nonce")
	e, err := client.Attest(t.Context(), &enclavev1.AttestRequest{Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	s, key, err := journal.VerifyStatement(e.GetDocument())
	if err != nil || e.GetTier() != "software" || !bytes.Equal(s.Nonce, nonce) || key.ID() != r.key.ID() || s.Epoch != r.epoch {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range [][]byte{nil, []byte("1234567"), make([]byte, 65)} {
		if _, err := client.Attest(t.Context(), &enclavev1.AttestRequest{Nonce: bad}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("nonce of %d bytes: %v", len(bad), err)
		}
	}
}

// Bad input is an error of that call.
func TestBadInput(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	ctx := t.Context()
	for name, c := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"no verdicts": {func() error { _, err := client.Record(ctx, &enclavev1.RecordRequest{}); return err }, codes.InvalidArgument},
		"too many verdicts": {func() error {
			_, err := client.Record(ctx, &enclavev1.RecordRequest{Verdicts: make([][]byte, MaxVerdicts+1)})
			return err
		}, codes.InvalidArgument},
		"a verdict that is none": {func() error {
			_, err := client.Record(ctx, &enclavev1.RecordRequest{Verdicts: [][]byte{[]byte("garbage")}})
			return err
		}, codes.InvalidArgument},
		"an empty mint": {func() error { _, err := client.Mint(ctx, &enclavev1.MintRequest{}); return err }, codes.InvalidArgument},
		"an oversize message": {func() error {
			_, err := client.Mint(ctx, &enclavev1.MintRequest{Policy: make([]byte, MaxReceive+1)})
			return err
		}, codes.ResourceExhausted},
		"a bundle that is none": {func() error {
			_, err := client.InstallCeiling(ctx, &enclavev1.InstallCeilingRequest{Bundle: []byte("version: 2")})
			return err
		}, codes.InvalidArgument},
	} {
		if err := c.call(); status.Code(err) != c.want || status.Convert(err).Message() == "" {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	r.alive(t)
}

// mintRequest is one that the development ceiling grants.
func mintRequest() *enclavev1.MintRequest {
	p, err := policy.Parse("p", []byte("filesystem: {read: [\"/usr/**\"]}"))
	if err != nil {
		panic(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	cnf, err := visa.ConfirmationKey(&key.PublicKey)
	if err != nil {
		panic(err)
	}
	return &enclavev1.MintRequest{
		Policy: p.Canonical(), Name: "agent", ConfirmationKey: cnf,
		Asserted: &enclavev1.Asserted{AgentId: "a", Uid: 1000, User: "u", Home: "/home/u"},
	}
}

// A bug in one call is an error of that call.
func TestPanicFailsOneCall(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	r.mint = nil
	if _, err := client.Mint(t.Context(), mintRequest()); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "nil pointer") {
		t.Errorf("%v: want an internal error without details", err)
	}
	r.alive(t)
}

func TestNoReflection(t *testing.T) {
	r := serve(t)
	_, conn := r.good(t)
	for _, method := range []string{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.health.v1.Health/Check"} {
		if err := conn.Invoke(t.Context(), method, &enclavev1.DescribeRequest{}, &enclavev1.Description{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// Frames that are none, before and after TLS, cost the connection that sent them.
func TestGarbage(t *testing.T) {
	r := serve(t)
	noise := make([]byte, 64<<10)
	rand.Read(noise)
	preface := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	for name, bytes := range map[string][]byte{
		"noise": noise, "HTTP/1": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "preface without TLS": preface, "nothing": {},
		"TLS record of 64 KiB": append([]byte{22, 3, 1, 0xff, 0xff}, noise...),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("unix", r.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			drain(t, conn, bytes)
			r.alive(t)
		})
	}
	for name, frames := range map[string][]byte{
		"noise":                        noise,
		"preface, then noise":          append(preface, noise...),
		"preface, then a huge frame":   append(preface, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1),
		"settings of an odd length":    append(preface, 0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5),
		"headers that do not decode":   append(append(preface, 0, 0, 0, 4, 0, 0, 0, 0, 0), 0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff),
		"a thousand resets of nothing": append(append(preface, 0, 0, 0, 4, 0, 0, 0, 0, 0), bytes.Repeat([]byte{0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8}, 1000)...),
	} {
		t.Run("authenticated "+name, func(t *testing.T) {
			conn, err := tls.Dial("unix", r.socket, r.tls(r.caller))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			drain(t, conn, frames)
			r.alive(t)
		})
	}
}

// drain writes and then reads until the server closes or a moment has passed.
func drain(t *testing.T, conn net.Conn, out []byte) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(time.Second))
	conn.Write(out) // the server may close while this writes
	io.Copy(io.Discard, conn)
}

// Connections that never finish their handshake are closed in time, so that they cannot keep the caller out for long.
func TestSlowLoris(t *testing.T) {
	r := serve(t)
	var conns []net.Conn
	for range 2 * MaxConnections {
		conn, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte{22, 3, 1}) // the first bytes of a ClientHello, and never more
		conns = append(conns, conn)
	}
	r.alive(t)
	conns[0].SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conns[0]); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("a connection without a handshake stays open")
	}
}

// A Persist stream that says nothing does not count as a store.
func TestSilentPersist(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 20 {
		if _, err := client.Persist(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if r.journal.Attached() {
		t.Error("a stream without Attach counts as a store")
	}
	r.alive(t)
}

// Many callers at once, good and bad, over few connections: every one gets an answer.
func TestFlood(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	keepStore(t, client)
	verdict, err := journal.EncodeVerdict(journal.Verdict{Time: 1, AgentID: "a", Subject: "s", Decision: journal.Block, Layer: "x", Operation: "y", Target: "z", Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range 600 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			request := &enclavev1.RecordRequest{Verdicts: [][]byte{verdict, verdict}}
			want := codes.OK
			if i%2 == 1 {
				request.Verdicts[1], want = []byte(fmt.Sprint("garbage ", i)), codes.InvalidArgument
			}
			if _, err := client.Record(t.Context(), request); status.Code(err) != want {
				t.Errorf("%v, want %s", err, want)
			}
		}()
	}
	wait.Wait()
	r.alive(t)
	d, err := client.Describe(t.Context(), &enclavev1.DescribeRequest{})
	if err != nil || d.GetJournalSize() != 3+600 { // entry 0, the ceiling, the cost control, and two verdicts of each good call
		t.Errorf("%d entries, %v", d.GetJournalSize(), err)
	}
}

// Metadata is bounded like everything else.
func TestHugeMetadata(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-noise", strings.Repeat("n", 1<<20))
	if _, err := client.Describe(ctx, &enclavev1.DescribeRequest{}); err == nil {
		t.Error("a megabyte of metadata was taken")
	}
	r.alive(t)
}
