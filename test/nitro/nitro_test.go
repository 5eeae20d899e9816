// Package nitro runs the programs with an enclave in a virtual machine: the image that raypher eif build makes, the kernel's own driver of
// the Nitro Secure Module with the laboratory's module behind it, and vsock between them. scripts/nitro-parts.sh gets the machine's parts.
package nitro

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/image"
	"github.com/raypher/raypher/enclave/pid1"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/lab/machine"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

// startLimit bounds the wait for an enclave that answers; it takes some seconds under emulation.
const startLimit = 3 * time.Minute

// arguments of the enclave: those of every image, and the clock of an emulated processor.
var arguments = []string{"--signer", "nitro", "--listen", "vsock:5000", "--config", "vsock:5001", "--clock-source", "tsc"}

var nonce = []byte("a nonce of the verifier")

// An enclave comes up with its configuration, mints under keys that its module vouches for, and is what was measured; verified by the
// library, and by the program that a relying party has.
func TestEnclaveInTheLab(t *testing.T) {
	e := start(t, "")
	l := e.connect(t)
	about, err := l.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if about.Tier != journal.TierNitro || !bytes.Equal(about.ConfigurationHash, e.configuration[:]) {
		t.Errorf("it says %v", about)
	}
	attested, err := l.Attest(t.Context(), nonce)
	if err != nil {
		t.Fatal(err)
	}
	e.verify(t, attested.Document, about.PublicKey, about.Epoch)
	further, err := l.DescribeKey(t.Context(), &enclavev1.DescribeKeyRequest{Purpose: string(journal.PurposeNamespace), Name: "dev", Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	e.verify(t, further.Evidence.Document, further.PublicKey, about.Epoch)
	e.verifyByProgram(t, attested.Document)
	if strings.Contains(e.console.String(), "no Landlock") {
		t.Error("this kernel has Landlock, and the enclave says that it has none")
	}
	if !e.beat() {
		t.Error("the heartbeat did not come")
	}
}

// A kernel without Landlock, as the one of AWS's, will do in an image; and what happens when the enclave is started anew.
func TestKernelWithoutLandlock(t *testing.T) {
	e := start(t, " lsm=yama")
	l := e.connect(t)
	if _, err := l.Attest(t.Context(), nonce); err != nil {
		t.Error(err)
	}
	if !strings.Contains(e.console.String(), "no Landlock") {
		t.Errorf("it does not say so:\n%s", e.console)
	}
	t.Run("started anew", func(t *testing.T) { e.again(t, l) })
}

// again starts another enclave of the same image and operator. It has another key, and follows the journal of the one before, whose key its
// configuration lists.
func (e *enclave) again(t *testing.T, l *link.Link) {
	old := *l.EnclaveKey()
	l.Close()
	e.Close()
	e.store.Close()
	if err := os.Remove(filepath.Join(e.keys, link.PinFile)); err != nil {
		t.Fatal(err)
	}
	next := start(t, " lsm=yama")
	next.keys, next.operator = e.keys, e.operator
	if key := next.connect(t, old).EnclaveKey(); *key == old {
		t.Error("the same key in another enclave")
	}
}

// enclave is one in a machine, and what the host knows of it.
type enclave struct {
	*machine.Machine
	console       *text
	keys          string
	store         *audit.Store
	configuration [32]byte
	operator      ed25519.PrivateKey
	heart         *machine.Heart
}

// text is what a machine has said so far.
type text struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (x *text) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all.Write(b)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all.String()
}

// start builds an image and boots it.
func start(t *testing.T, commandLine string) *enclave {
	t.Helper()
	parts := machine.FromEnvironment(t)
	program := build(t, "raypher-enclave")
	raw := ok(eif.Build(eif.Contents{
		Kernel: parts.Kernel, CommandLine: "console=ttyS0 reboot=k panic=-1 quiet" + commandLine,
		Ramdisks: [][]byte{
			ok(image.Boot(parts.Modules))(t),
			ok(image.Application(ok(os.ReadFile(program))(t), pid1.Start{HeartbeatCID: machine.HostCID, Arguments: arguments}))(t),
		},
	}))(t)
	folder := machine.Folder(t)
	e := &enclave{console: &text{}, keys: filepath.Join(t.TempDir(), "keys")}
	_, e.operator, _ = ed25519.GenerateKey(nil) // never fails
	e.heart = ok(machine.TakeHeartbeat(folder))(t)
	t.Cleanup(func() { e.heart.Close() })
	e.Machine = ok(machine.Start(t.Context(), machine.Options{
		Image: raw, Folder: folder, Console: e.console, Log: e.console, QEMU: parts.QEMU, Vsock: parts.Vsock,
	}))(t)
	t.Cleanup(func() {
		e.Close()
		if t.Failed() {
			t.Logf("console:\n%s", e.console)
		}
	})
	return e
}

func (e *enclave) beat() bool {
	select {
	case <-e.heart.Beat:
		return true
	default:
		return false
	}
}

// connect sends the configuration, waits until the enclave serves, and installs a ceiling.
func (e *enclave) connect(t *testing.T, predecessors ...startconf.KeyHash) *link.Link {
	t.Helper()
	caller := ok(link.Prepare(e.keys, func(string) {}))(t)
	file := filepath.Join(e.keys, startconf.FileName)
	configuration := ok(startconf.Read(file))(t)
	configuration.OperatorKeys = [][]byte{ok(ceiling.PublicKey(e.operator))(t)}
	configuration.Predecessors = predecessors
	for _, err := range []error{os.Remove(file), startconf.Write(e.keys, configuration)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	e.configuration = configuration.Hash()
	e.store = ok(audit.Open(filepath.Join(filepath.Dir(e.keys), "journal")))(t)
	t.Cleanup(func() { e.store.Close() })
	at := func(port int) string { return fmt.Sprintf("vsock-uds:%s:%d", e.VsockPath(), port) }
	l := ok(link.Dial(link.Options{
		Address: at(5000), ConfigureAt: at(5001), Configuration: ok(os.ReadFile(file))(t),
		Caller: caller, PinFile: filepath.Join(e.keys, link.PinFile), Store: e.store, Log: slog.New(slog.DiscardHandler),
	}))(t)
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	if err := l.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	everything := ok(ceiling.Development(configuration.TrustDomain))(t)
	everything.Grants[0].Namespace, everything.Grants[0].OwnKey = "dev", true
	if _, err := l.InstallCeiling(ctx, ok(ceiling.Sign(everything, e.operator))(t)); err != nil {
		t.Fatal(err)
	}
	return l
}

// verify holds a document against the module's root, the image's measurements and the key that it is about.
func (e *enclave) verify(t *testing.T, document, key, epoch []byte) {
	t.Helper()
	roots := ok(nitro.ParseRoots(e.Module.RootPEM()))(t)
	v := &nitro.KeyVerifier{
		Verifier: ok(nitro.NewVerifier(nitro.Config{Roots: roots}))(t),
		Expected: nitro.Expected{Nonce: nonce, PCRs: map[int]nitro.PCR{
			0: e.Measurements.PCR0, 1: e.Measurements.PCR1, 2: e.Measurements.PCR2, 16: nitro.ConfigurationValue(e.configuration),
		}},
	}
	a := ok(v.VerifyKey(document))(t)
	if !bytes.Equal(a.Key.PKIX(), key) || !bytes.Equal(a.Epoch[:], epoch) || a.ConfigurationHash != e.configuration {
		t.Errorf("it is about %+v", a)
	}
	v.Verifier = ok(nitro.NewVerifier(nitro.Config{}))(t)
	if _, err := v.VerifyKey(document); err == nil || !strings.Contains(err.Error(), "not a trusted root") {
		t.Errorf("under the AWS root: %v", err)
	}
}

// verifyByProgram does what docs/nitro.md says.
func (e *enclave) verifyByProgram(t *testing.T, document []byte) {
	t.Helper()
	program, folder := build(t, "raypher"), t.TempDir()
	doc, root := filepath.Join(folder, "doc"), filepath.Join(folder, "test-root.pem")
	if err := os.WriteFile(doc, document, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root, e.Module.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	pcr := func(index int, value [48]byte) []string {
		return []string{"--pcr", fmt.Sprintf("%d=%s", index, hex.EncodeToString(value[:]))}
	}
	good := append([]string{"--nonce", hex.EncodeToString(nonce)}, pcr(0, e.Measurements.PCR0)...)
	good = append(append(good, pcr(2, e.Measurements.PCR2)...), pcr(16, nitro.ConfigurationValue(e.configuration))...)
	for _, c := range []struct {
		name      string
		arguments []string
		want      string // the check that refuses; empty: none
	}{
		{"the test root", append([]string{"--root", root}, good...), ""},
		{"the AWS root", good, "root: "},
		{"another image", append([]string{"--root", root}, pcr(2, e.Measurements.PCR1)...), "pcr: "},
		{"another configuration", append([]string{"--root", root}, pcr(16, nitro.ConfigurationValue([32]byte{1}))...), "pcr: "},
		{"another nonce", []string{"--root", root, "--nonce", "00"}, "nonce: "},
	} {
		var stdout, stderr bytes.Buffer
		command := exec.Command(program, append([]string{"attest", "verify", "--json", "--nitro", doc}, c.arguments...)...)
		command.Stdout, command.Stderr = &stdout, &stderr
		err := command.Run()
		if c.want == "" && (err != nil || !json.Valid(stdout.Bytes())) || c.want != "" && (err == nil || !strings.Contains(stderr.String(), c.want)) {
			t.Errorf("%s: %v: %s%s", c.name, err, stdout.String(), stderr.String())
		}
	}
}

// build makes a static program of this module.
func build(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	command := exec.Command("go", "build", "-trimpath", "-o", program, "../../cmd/"+name)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return program
}

func ok[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
