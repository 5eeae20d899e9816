package nitro_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/attest/eif"
	attest "github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/image"
	"github.com/raypher/raypher/enclave/pid1"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/nitro"
	"github.com/raypher/raypher/enclave/signer/signertest"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/lab/machine"
)

// guestLimit bounds the whole life of the machine; under emulation it needs a tenth of that.
const guestLimit = 3 * time.Minute

// TestMain: in the virtual machine this program is the first process, and runs the tests for there.
func TestMain(m *testing.M) {
	if !pid1.Is() {
		os.Exit(m.Run())
	}
	start, err := pid1.ReadStart(pid1.Orders)
	if err == nil {
		err = pid1.SetUp(pid1.Modules)
	}
	if err != nil {
		fmt.Println("GUEST", err)
	} else {
		os.Args = append(os.Args[:1], start.Arguments...)
		fmt.Println("GUEST exit status", m.Run())
	}
	pid1.Restart()
}

// The contract over /dev/nsm: the kernel's own driver, with the laboratory's module behind it, in a virtual machine.
func TestGuest(t *testing.T) {
	parts := machine.FromEnvironment(t)
	program := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	start := pid1.Start{HeartbeatCID: pid1.NoHeartbeat, Arguments: []string{"-test.run", "^TestInGuest$", "-test.v"}}
	raw := ok(eif.Build(eif.Contents{
		Kernel: parts.Kernel, CommandLine: "console=ttyS0 reboot=k panic=-1 quiet",
		Ramdisks: [][]byte{ok(image.Boot(parts.Modules))(t), ok(image.Application(ok(os.ReadFile(program))(t), start))(t)},
	}))(t)
	var console bytes.Buffer
	m := ok(machine.Start(t.Context(), machine.Options{Image: raw, Folder: machine.Folder(t), Console: &console, Log: &console, QEMU: parts.QEMU, Vsock: parts.Vsock}))(t)
	limit := time.AfterFunc(guestLimit, func() { m.Close() })
	defer limit.Stop()
	if err := m.Wait(); err != nil || !strings.Contains(console.String(), "GUEST exit status 0") || strings.Contains(console.String(), "--- SKIP") {
		t.Fatalf("%v\n%s", err, console.String())
	}
	value, locked := m.Module.PCR(attest.ConfigurationPCR)
	if value != attest.ConfigurationValue(configuration) || !locked {
		t.Errorf("PCR16 outside is %x, locked %v", value, locked)
	}
}

// TestInGuest is what runs in the machine.
func TestInGuest(t *testing.T) {
	if !pid1.Is() {
		t.Skip("it is for the virtual machine of TestGuest")
	}
	device := ok(nitro.OpenDevice())(t)
	clock := strings.TrimSpace(string(ok(os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource"))(t)))
	id, err := device.Prepare(t.Context(), clock)
	if err != nil || !strings.HasPrefix(id, "i-") {
		t.Fatalf("%q, %v", id, err)
	}
	if _, err := device.Prepare(t.Context(), "kvm-clock"); err == nil || !strings.Contains(err.Error(), "clock of the kernel") {
		t.Errorf("an emulated machine has no kvm-clock: %v", err)
	}
	device.Close()
	target := signertest.Target{
		Open: func(t *testing.T) signer.Signer {
			return ok(nitro.Open(t.Context(), ok(nitro.OpenDevice())(t), configuration))(t)
		},
		Tier: journal.TierNitro,
		Verify: func(t *testing.T, e *journal.KeyEvidence) (signertest.Proven, error) {
			if bent(e.Document) {
				return signertest.Proven{}, errors.New("one byte is another one")
			}
			return prove(e, attest.Config{Roots: []*x509.Certificate{rootOf(t, e)}}, map[int]attest.PCR{16: attest.ConfigurationValue(configuration)})
		},
	}
	t.Run("signer", func(t *testing.T) { signertest.Run(t, target) })
	t.Run("keyring", func(t *testing.T) { signertest.RunKeyring(t, target) })
	t.Run("KMS", func(t *testing.T) {
		key := ok(nitro.Open(t.Context(), ok(nitro.OpenDevice())(t), configuration))(t)
		defer key.Close()
		e := ok(key.Evidence(t.Context(), []byte("nonce"), signer.Binding{Configuration: configuration}))(t)
		root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootOf(t, e).Raw})
		decrypt(t, key, root, map[int]attest.PCR{16: attest.ConfigurationValue(configuration)})
	})
}

// bent says whether a document differs by one byte from the last one that did not. Thousands of such are verified in TestConformance; an
// emulated processor would take minutes.
func bent(document []byte) bool {
	differ := 0
	for i := range document {
		if len(document) != len(lastDocument) || document[i] != lastDocument[i] {
			differ++
		}
	}
	if differ != 1 {
		lastDocument = document
	}
	return differ == 1
}

var lastDocument []byte

var guestRoot *x509.Certificate

// rootOf is the root that the first document brings along: outside, TestConformance and the laboratory's own test hold it against the module's.
func rootOf(t *testing.T, e *journal.KeyEvidence) *x509.Certificate {
	t.Helper()
	if guestRoot != nil {
		return guestRoot
	}
	var parts []any
	var payload struct {
		Bundle [][]byte `cbor:"cabundle"`
	}
	for _, err := range []error{cbor.Unmarshal(e.Document, &parts), cbor.Unmarshal(parts[2].([]byte), &payload)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: payload.Bundle[0]})
	guestRoot = ok(attest.ParseRoots(block))(t)[0]
	return guestRoot
}
