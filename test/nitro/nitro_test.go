// Package nitro runs the programs with an enclave in a virtual machine: the image that raypher eif build makes, the kernel's own driver of
// the Nitro Secure Module with the laboratory's module behind it, and vsock between them. scripts/nitro-parts.sh gets the machine's parts.
package nitro

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
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
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/lab/machine"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/visa"
)

// startLimit bounds the wait for an enclave that answers; it takes some seconds under emulation.
const startLimit = 3 * time.Minute

// arguments of the enclave: those of every image, and the clock of an emulated processor.
var arguments = []string{"--signer", "nitro", "--listen", "vsock:5000", "--config", "vsock:5001", "--clock-source", "tsc"}

var nonce = []byte("a nonce of the verifier")

// An enclave comes up with its configuration, mints under keys that its module vouches for, and is what was measured; verified by the
// library, and by the program that a relying party has.
func TestEnclaveInTheLab(t *testing.T) {
	e := start(t, "", nil)
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
	e := start(t, " lsm=yama", nil)
	l := e.connect(t)
	if _, err := l.Attest(t.Context(), nonce); err != nil {
		t.Error(err)
	}
	if !strings.Contains(e.console.String(), "no Landlock") {
		t.Errorf("it does not say so:\n%s", e.console)
	}
	t.Run("switched off while it mints, and started anew", func(t *testing.T) { e.again(t, l) })
}

// again switches the machine off in the middle of calls, and starts another one of the same image. Callers are told in words; the link takes
// the new enclave by its document, and its journal follows the one before.
func (e *enclave) again(t *testing.T, l *link.Link) {
	old := *l.EnclaveKey()
	minting, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	minted := make(chan struct{}, 1)
	for range 4 {
		callers.Go(func() {
			for minting.Err() == nil {
				_, err := l.Mint(minting, mintRequest(t))
				switch {
				case err == nil:
					select {
					case minted <- struct{}{}:
					default:
					}
				case minting.Err() == nil && !errors.Is(err, link.ErrUnreachable):
					t.Errorf("a call that was cut off: %v", err)
				default:
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	select {
	case <-minted: // they are in the middle of it
	case <-time.After(startLimit):
		stop()
		callers.Wait()
		t.Fatal("nothing is minted")
	}
	e.Close()
	e.heart.Close()
	for _, left := range []string{"vsock", "vsock-device", "nsm"} {
		os.Remove(filepath.Join(e.folder, left)) // of a machine that was killed
	}
	next := start(t, " lsm=yama", e)
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	for *l.EnclaveKey() == old && ctx.Err() == nil {
		time.Sleep(50 * time.Millisecond)
	}
	if err := l.Wait(ctx); err != nil {
		stop()
		callers.Wait()
		t.Fatalf("%v\n%s", err, next.console)
	}
	if _, err := l.Mint(ctx, mintRequest(t)); err != nil {
		t.Errorf("after it was started anew: %v", err)
	}
	stop()
	callers.Wait()
	l.Close()
	e.verifyJournal(t, 2)
}

// verifyJournal walks from epoch to epoch.
func (e *enclave) verifyJournal(t *testing.T, epochs int) {
	t.Helper()
	roots := ok(nitro.ParseRoots(e.Module.RootPEM()))(t)
	reports, err := e.store.Verify(evidence.Options{Verifiers: map[string]evidence.KeyVerifier{journal.TierNitro: &nitro.KeyVerifier{
		Verifier: ok(nitro.NewVerifier(nitro.Config{Roots: roots}))(t), OwnTime: true, Expected: nitro.Expected{PCRs: e.pcrs()},
	}}})
	if err != nil || len(reports) != epochs {
		t.Errorf("%d epochs, want %d: %v", len(reports), epochs, err)
	}
}

func (e *enclave) pcrs() map[int]nitro.PCR {
	return map[int]nitro.PCR{0: e.Measurements.PCR0, 1: e.Measurements.PCR1, 2: e.Measurements.PCR2}
}

// mintRequest is one that the ceiling grants.
func mintRequest(t testing.TB) *enclavev1.MintRequest {
	t.Helper()
	p := ok(policy.Parse("p", []byte("namespace: dev\nfilesystem: {read: [\"/usr/**\"]}")))(t)
	key := ok(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return &enclavev1.MintRequest{
		Policy: p.Canonical(), Namespace: "dev", Name: "agent", ConfirmationKey: ok(visa.ConfirmationKey(&key.PublicKey))(t),
		Asserted: &enclavev1.Asserted{AgentId: "a", Uid: 1000, User: "u", Home: "/home/u"},
	}
}

// enclave is one in a machine, and what the host knows of it.
type enclave struct {
	*machine.Machine
	folder        string
	image         []byte
	console       *text
	keys          string
	store         *audit.Store
	configuration [32]byte
	operator      ed25519.PrivateKey
	heart         *machine.Heart
	more          string // further lines of its configuration
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

// build makes an image with the enclave's program.
func build(t testing.TB, parts *machine.Parts, commandLine string) []byte {
	t.Helper()
	program := compile(t, "raypher-enclave")
	return ok(eif.Build(eif.Contents{
		Kernel: parts.Kernel, CommandLine: "console=ttyS0 reboot=k panic=-1 quiet" + commandLine,
		Ramdisks: [][]byte{
			ok(image.Boot(parts.Modules))(t),
			ok(image.Application(ok(os.ReadFile(program))(t), pid1.Start{HeartbeatCID: machine.HostCID, Arguments: arguments}))(t),
		},
	}))(t)
}

// start boots an image, or once more that of an enclave in whose place it comes, under the same root.
func start(t testing.TB, commandLine string, before *enclave) *enclave {
	t.Helper()
	parts := machine.FromEnvironment(t)
	e := &enclave{console: &text{}, keys: filepath.Join(t.TempDir(), "keys")}
	_, e.operator, _ = ed25519.GenerateKey(nil) // never fails
	options := machine.Options{Console: e.console, Log: e.console, QEMU: parts.QEMU, Vsock: parts.Vsock}
	if before == nil {
		e.folder, e.image = machine.Folder(t), build(t, parts, commandLine)
	} else {
		e.folder, e.image, options.Before = before.folder, before.image, before.Machine
	}
	options.Folder, options.Image = e.folder, e.image
	e.heart = ok(machine.TakeHeartbeat(e.folder))(t)
	t.Cleanup(func() { e.heart.Close() })
	e.Machine = ok(machine.Start(t.Context(), options))(t)
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

// connect sends the configuration, waits until the enclave serves, verifies what it is, and installs a ceiling, each time anew.
func (e *enclave) connect(t testing.TB) *link.Link {
	t.Helper()
	caller := ok(link.Prepare(e.keys, func(string) {}))(t)
	file := filepath.Join(e.keys, startconf.FileName)
	configuration := ok(startconf.Read(file))(t)
	configuration.OperatorKeys = [][]byte{ok(ceiling.PublicKey(e.operator))(t)}
	roots := ok(nitro.ParseRoots(e.Module.RootPEM()))(t)
	configuration.NitroRoots = []startconf.KeyHash{sha256.Sum256(roots[0].Raw)}
	for _, err := range []error{os.Remove(file), startconf.Write(e.keys, configuration)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if e.more != "" {
		text := append(ok(os.ReadFile(file))(t), e.more...)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		configuration = ok(startconf.Read(file))(t)
	}
	e.configuration = configuration.Hash()
	e.store = ok(audit.Open(filepath.Join(filepath.Dir(e.keys), "journal")))(t)
	t.Cleanup(func() { e.store.Close() })
	everything := ok(ceiling.Development(configuration.TrustDomain))(t)
	everything.Grants[0].Namespace, everything.Grants[0].OwnKey = "dev", true
	bundle := ok(ceiling.Sign(everything, e.operator))(t)
	at := func(port int) string { return fmt.Sprintf("vsock-uds:%s:%d", e.VsockPath(), port) }
	l := ok(link.Dial(link.Options{
		Address: at(5000), ConfigureAt: at(5001), Configuration: ok(os.ReadFile(file))(t),
		Caller: caller, PinFile: filepath.Join(e.keys, link.PinFile), Vouch: &link.Vouch{Roots: roots, PCRs: e.pcrs()},
		Prepare: func(ctx context.Context, l *link.Link) {
			if _, err := l.InstallCeiling(ctx, bundle); err != nil && ctx.Err() == nil {
				t.Errorf("install the ceiling: %v", err)
			}
		},
		Store: e.store, Log: slog.New(slog.DiscardHandler),
	}))(t)
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	if err := l.Wait(ctx); err != nil {
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
	program, folder := compile(t, "raypher"), t.TempDir()
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

// compile makes a static program of this module.
func compile(t testing.TB, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	command := exec.Command("go", "build", "-trimpath", "-o", program, "../../cmd/"+name)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return program
}

func ok[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
