package link_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/visa"
)

// enclaveBinary is the real service, built once: the parent knows it as a process only.
var enclaveBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "raypher-link-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	enclaveBinary = filepath.Join(dir, "raypher-enclave")
	build := exec.Command("go", "build", "-o", enclaveBinary, "github.com/raypher/raypher/cmd/raypher-enclave")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build raypher-enclave: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// pair is a local enclave with its journal.
type pair struct {
	*link.Local
	store   *audit.Store
	options link.LocalOptions
}

// folder is like t.TempDir, but other users can pass through, as they can through /var/lib: the enclave has its own.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "raypher-link-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t testing.TB, dir string) *pair {
	t.Helper()
	return startWith(t, dir, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
}

func startQuiet(t testing.TB, dir string) *pair {
	t.Helper()
	return startWith(t, dir, slog.New(slog.DiscardHandler))
}

// openCaller makes the parent's folder and its key.
func openCaller(t testing.TB, keys string) *link.Caller {
	t.Helper()
	if err := os.MkdirAll(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	caller, err := link.OpenCaller(keys)
	if err != nil {
		t.Fatal(err)
	}
	return caller
}

func startWith(t testing.TB, dir string, log *slog.Logger) *pair {
	t.Helper()
	return startOver(t, dir, log, func(s link.Store) link.Store { return s })
}

// startOver starts a local enclave whose link stores into what wrap makes of the audit store.
func startOver(t testing.TB, dir string, log *slog.Logger, wrap func(link.Store) link.Store) *pair {
	t.Helper()
	store, err := audit.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	p := &pair{store: store, options: link.LocalOptions{
		Development: true,
		Binary:      enclaveBinary, Socket: filepath.Join(dir, "run", "enclave.sock"), State: filepath.Join(dir, "state"),
		Keys: filepath.Join(dir, "keys"), Store: wrap(store), Log: log,
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if p.Local, err = link.StartLocal(ctx, p.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

const simplePolicy = `
namespace: dev
filesystem:
  read: ["/usr/**", "/home/a/work/**"]
network:
  egress: ["example.com:443"]
`

// request is a good request for a visa.
func request(t testing.TB, name string) *enclavev1.MintRequest {
	t.Helper()
	p, err := policy.Parse("p", []byte(simplePolicy))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cnf, err := visa.ConfirmationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	hash := p.Hash()
	return &enclavev1.MintRequest{
		Policy: p.Canonical(), Namespace: "dev", Name: name, ConfirmationKey: cnf, PolicySourceHash: hash[:],
		Asserted: &enclavev1.Asserted{AgentId: "a-1", Uid: 1000, User: "a", Home: "/home/a", Pid: 42, Backend: "broker", Host: "h"},
	}
}

// A visa minted over the link verifies offline, and verdicts lie in the store with a proof.
func TestMintAndRecord(t *testing.T) {
	p := start(t, folder(t))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	d, err := p.Describe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	key, err := journal.ParseKey(d.GetPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	reply, err := p.Mint(ctx, request(t, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	claims, err := visa.Verify(reply.GetVisa(), visa.Options{Keys: []*journal.Key{key}, AllowSoftware: true})
	if err != nil {
		t.Fatal(err)
	}
	if claims.Subject != "spiffe://raypher.local/ns/dev/agent/agent" || claims.ExpiresAt-claims.IssuedAt != 300 {
		t.Errorf("claims %+v", claims)
	}
	verdict, err := journal.EncodeVerdict(journal.Verdict{
		Time: time.Now().UnixNano(), AgentID: "a-1", Subject: claims.Subject, Decision: journal.Block, Layer: "landlock",
		Operation: "open-read", Target: "/etc/shadow", Count: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	epoch, first, err := p.Record(ctx, verdict, verdict)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2) {
		receipt, entry, err := p.store.Receipt(epoch, first+i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := receipt.Verify(entry, key); err != nil {
			t.Error(err)
		}
	}
}
