package nitro_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	driver "github.com/hf/nsm"

	"github.com/raypher/raypher/attest/eif"
	attest "github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/nitro"
	"github.com/raypher/raypher/enclave/signer/signertest"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/lab/nsm"
)

// configuration is the one that the conformance test names in its bindings.
var configuration = journal.Hash{4, 5, 6}

var measured = eif.Measurements{PCR0: eif.PCR{1}, PCR1: eif.PCR{2}, PCR2: eif.PCR{3}}

// The contract, with the laboratory's module in this process; over a real /dev/nsm it is kept in a virtual machine (TestGuest).
func TestConformance(t *testing.T) {
	var module *nsm.Module
	target := signertest.Target{
		Open: func(t *testing.T) signer.Signer {
			module = newModule(t)
			return ok(nitro.Open(t.Context(), deviceOf(module.Answer), configuration))(t)
		},
		Tier: journal.TierNitro,
		Verify: func(t *testing.T, e *journal.KeyEvidence) (signertest.Proven, error) {
			roots := ok(attest.ParseRoots(module.RootPEM()))(t)
			return prove(e, attest.Config{Roots: roots}, map[int]attest.PCR{0: measured.PCR0, 1: measured.PCR1, 2: measured.PCR2})
		},
	}
	signertest.Run(t, target)
	signertest.RunKeyring(t, target)
}

func prove(e *journal.KeyEvidence, c attest.Config, pcrs map[int]attest.PCR) (signertest.Proven, error) {
	verifier, err := attest.NewVerifier(c)
	if err != nil {
		return signertest.Proven{}, err
	}
	a, err := (&attest.KeyVerifier{Verifier: verifier, Expected: attest.Expected{PCRs: pcrs}}).VerifyKey(e.Document)
	if err != nil {
		return signertest.Proven{}, err
	}
	return signertest.Proven{Key: a.Key, Nonce: a.Nonce, Binding: signer.Binding{Epoch: a.Epoch, Configuration: a.ConfigurationHash, Head: a.Head}}, nil
}

// A document says what the journal held, where there is a journal.
func TestHeadIsCovered(t *testing.T) {
	module := newModule(t)
	key := ok(nitro.Open(t.Context(), deviceOf(module.Answer), configuration))(t)
	for _, want := range []signer.Binding{{Configuration: configuration}, {Configuration: configuration, Head: journal.Hash{7}}} {
		e := ok(key.Evidence(t.Context(), []byte("nonce"), want))(t)
		proven, err := prove(e, attest.Config{Roots: ok(attest.ParseRoots(module.RootPEM()))(t)}, map[int]attest.PCR{0: measured.PCR0})
		if err != nil || proven.Binding != want {
			t.Errorf("%+v, %v, want %+v", proven.Binding, err, want)
		}
	}
}

// Nothing but the module's root makes the evidence good.
func TestOtherRootsRefuse(t *testing.T) {
	key := ok(nitro.Open(t.Context(), deviceOf(newModule(t).Answer), configuration))(t)
	e := ok(key.Evidence(t.Context(), []byte("nonce"), signer.Binding{Configuration: configuration}))(t)
	for _, c := range []struct {
		name   string
		config attest.Config
	}{
		{"the AWS root", attest.Config{}},
		{"another module's", attest.Config{Roots: ok(attest.ParseRoots(newModule(t).RootPEM()))(t)}},
	} {
		v := ok(attest.NewVerifier(c.config))(t)
		if _, err := v.Verify(e.Document, attest.Expected{}); err == nil || !strings.Contains(err.Error(), "not a trusted root") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// PCR16 holds the configuration, once, whatever was there before.
func TestConfigurationIsLocked(t *testing.T) {
	other := journal.Hash{9}
	extend := func(h journal.Hash) []byte {
		return encode(t, map[string]any{"ExtendPCR": map[string]any{"index": 16, "data": h[:]}})
	}
	lock := encode(t, map[string]any{"LockPCR": map[string]any{"index": 16}})
	for _, c := range []struct {
		name   string
		before [][]byte
		want   string
	}{
		{"fresh", nil, ""},
		{"the same, locked", [][]byte{extend(configuration), lock}, ""},
		{"the same, not locked", [][]byte{extend(configuration)}, ""},
		{"another", [][]byte{extend(other)}, "another configuration"},
		{"another, locked", [][]byte{extend(other), lock}, "another configuration"},
		{"nothing, locked", [][]byte{lock}, "another configuration"},
		{"twice", [][]byte{extend(configuration), extend(configuration)}, "another configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			module := newModule(t)
			for _, request := range c.before {
				module.Answer(request)
			}
			_, err := nitro.Open(t.Context(), deviceOf(module.Answer), configuration)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want one with %q", err, c.want)
				}
				return
			}
			value, locked := module.PCR(attest.ConfigurationPCR)
			if err != nil || value != attest.ConfigurationValue(configuration) || !locked {
				t.Errorf("PCR16 %x, locked %v, %v", value, locked, err)
			}
		})
	}
}

// A key vouches for no configuration but its own.
func TestOtherConfigurationIsRefused(t *testing.T) {
	key := ok(nitro.Open(t.Context(), deviceOf(newModule(t).Answer), configuration))(t)
	if _, err := key.Evidence(t.Context(), nil, signer.Binding{Configuration: journal.Hash{9}}); !errors.Is(err, signer.ErrInput) {
		t.Errorf("error %v, want ErrInput", err)
	}
}

// Both sources of randomness are in a key: a module that always says the same does not make the same key.
func TestModuleAloneDoesNotDecideTheKey(t *testing.T) {
	open := func() signer.Signer {
		module := newModule(t)
		return ok(nitro.Open(t.Context(), deviceOf(func(request []byte) []byte {
			if bytes.Equal(request, encode(t, "GetRandom")) {
				return encode(t, map[string]any{"GetRandom": map[string]any{"random": make([]byte, 256)}})
			}
			return module.Answer(request)
		}), configuration))(t)
	}
	if first, second := open(), open(); first.(*nitro.Key).Public().Equal(second.Public()) {
		t.Error("the same key twice")
	}
}

// Whatever the module answers ends in words, and never in a key or a document.
func TestModuleErrors(t *testing.T) {
	said := func(code string) []byte { return encode(t, map[string]any{"Error": code}) }
	for _, c := range []struct {
		name, request string // the first answer to which is replaced
		answer        []byte
		want          string
	}{
		{"a locked register", "ExtendPCR", said("ReadOnlyIndex"), "ReadOnlyIndex: the register is locked"},
		{"no such register", "DescribePCR", said("InvalidIndex"), "InvalidIndex: the module has fewer registers"},
		{"lock refused", "LockPCR", said("InternalError"), "InternalError: the module failed"},
		{"no randomness", "GetRandom", said("InternalError"), "InternalError: the module failed"},
		{"empty randomness", "GetRandom", encode(t, map[string]any{"GetRandom": map[string]any{"random": []byte{}}}), "returned none"},
		{"a code of tomorrow", "GetRandom", said("Tired"), "Tired: an error that this program does not know"},
		{"an answer to something else", "ExtendPCR", encode(t, "LockPCR"), "answered another request"},
		{"a short register", "DescribePCR", encode(t, map[string]any{"DescribePCR": map[string]any{"lock": false, "data": make([]byte, 32)}}), "answered another request"},
		{"a register that does not change", "ExtendPCR", encode(t, map[string]any{"ExtendPCR": map[string]any{"data": make([]byte, 48)}}), "not what was put there"},
		{"no CBOR", "GetRandom", []byte{0xff}, "what is no answer"},
		{"nothing", "GetRandom", nil, "what is no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			module := newModule(t)
			replaced := false
			key, err := nitro.Open(t.Context(), deviceOf(func(request []byte) []byte {
				if !replaced && bytes.Contains(request, []byte(c.request)) {
					replaced = true
					return c.answer
				}
				return module.Answer(request)
			}), configuration)
			if key != nil || !errors.Is(err, signer.ErrDevice) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("key %v, error %v, want ErrDevice with %q", key, err, c.want)
			}
		})
	}
}

// The driver's errors say what to do.
func TestDriverErrors(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.ETIMEDOUT: "does not answer", syscall.EPERM: "sandbox", syscall.EINVAL: "driver is another one",
		syscall.EMSGSIZE: "more than the driver takes", syscall.EIO: "kernel's log",
	} {
		device := nitro.NewDevice(nsm.Session(func([]byte) ([]byte, error) { return nil, &driver.ErrorIoctlFailed{Errno: errno} }))
		if _, err := nitro.Open(t.Context(), device, configuration); !errors.Is(err, signer.ErrDevice) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", errno, err, want)
		}
	}
}

// A request that hangs is left behind when its caller's time is up; the next one waits for it.
func TestSlowModule(t *testing.T) {
	module := newModule(t)
	slow := make(chan struct{})
	key := ok(nitro.Open(t.Context(), deviceOf(func(request []byte) []byte {
		if bytes.Contains(request, []byte("Attestation")) {
			<-slow
		}
		return module.Answer(request)
	}), configuration))(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	binding := signer.Binding{Configuration: configuration}
	for range 2 { // one that hangs, one that waits for its turn
		if _, err := key.Evidence(ctx, nil, binding); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v, want DeadlineExceeded", err)
		}
	}
	close(slow)
	if _, err := key.Evidence(t.Context(), nil, binding); err != nil {
		t.Error(err)
	}
	if err := key.Close(); err != nil {
		t.Error(err)
	}
}

func TestNoDevice(t *testing.T) {
	if _, err := os.Stat(nitro.DevicePath); err == nil {
		t.Skip("this machine has a Nitro Secure Module")
	}
	if _, err := nitro.OpenDevice(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/dev/nsm: no such file or directory: tier nitro is for Nitro Enclaves") {
		t.Error(err)
	}
}

// What the keys rest on is checked, and named when it is something else.
func TestCheckKernel(t *testing.T) {
	const clock = "kvm-clock"
	for _, c := range []struct{ name, rng, clock, want string }{
		{"as it should be", nitro.KernelRNG + "\n", clock + "\n", ""},
		{"another RNG", "virtio_rng.0\n", clock, `come from "virtio_rng.0" and not from "nsm-hwrng"`},
		{"no RNG", "none\n", clock, `come from "none"`},
		{"another clock", nitro.KernelRNG, "tsc\n", `come from "tsc" and not from "kvm-clock"`},
		{"a clock before it is refined", nitro.KernelRNG, clock + "-early", ""},
		{"no file", "", clock, "rng_current: no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sys := t.TempDir()
			for name, content := range map[string]string{
				"class/misc/hw_random/rng_current":                            c.rng,
				"devices/system/clocksource/clocksource0/current_clocksource": c.clock,
			} {
				if content == "" {
					continue
				}
				path := filepath.Join(sys, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			err := nitro.CheckKernel(sys, clock)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func newModule(t *testing.T) *nsm.Module {
	t.Helper()
	return ok(nsm.New(nsm.Options{Image: measured}))(t)
}

func deviceOf(answer func([]byte) []byte) *nitro.Device {
	return nitro.NewDevice(nsm.Session(func(request []byte) ([]byte, error) { return answer(request), nil }))
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	return ok(cbor.Marshal(v))(t)
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
