package nitrotpm_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/parent/nitrotpm"
)

var nonce = bytes.Repeat([]byte{7}, 32)

// A document is got over the nonce, through swtpm and the mock, and is one that the verifier takes. Nothing is left in the TPM.
func TestDocument(t *testing.T) {
	pki := nitrotest.New(t, time.Now())
	m := newMock(t, pki, tpmtest.NewCA(t).Make(t))
	verifier, err := nitro.NewVerifier(nitro.Config{Roots: []*x509.Certificate{pki.Root()}})
	if err != nil {
		t.Fatal(err)
	}
	device := nitrotpm.At(m.socket)
	check := func(nonce []byte) {
		t.Helper()
		document, err := device.Document(t.Context(), nonce)
		if err != nil {
			t.Fatal(err)
		}
		d, err := verifier.VerifyInstance(document, nitro.Expected{At: pki.At, MaxAge: time.Minute, Nonce: nonce})
		if err != nil || d.InstanceID() != nitrotest.InstanceID {
			t.Errorf("%+v, %v", d, err)
		}
	}
	check(nonce)
	check(bytes.Repeat([]byte{8}, 512)) // the index of before is gone
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() { check(bytes.Repeat([]byte{byte(i)}, 32)) })
	}
	callers.Wait()
	// One that an earlier raypherd left behind is no obstacle.
	m.tpm.Tool(t, t.TempDir(), "tpm2_nvdefine", "0x01800b00", "-Q", "-C", "o", "-s", "2048", "-g", "sha512", "-p", "lost", "-a", "authread|authwrite")
	check(nonce)
}

func TestFailures(t *testing.T) {
	pki := nitrotest.New(t, time.Now())
	ca := tpmtest.NewCA(t)
	response := func(value any) func(*mock) {
		return func(m *mock) { m.answer = func([]byte) []byte { return nitrotest.CBOR(t, value) } }
	}
	for _, c := range []struct {
		name string
		edit func(*mock)
		want string
	}{
		{"no NitroTPM", func(m *mock) { m.lacks = true }, "no NitroTPM"},
		{"the module's error", response(map[string]any{"Error": "InternalError"}), `"InternalError"`},
		{"another response", response("LockPCR"), "cannot be read"},
		{"an empty response", response(map[string]any{}), "no document"},
		{"an empty document", response(map[string]any{"Attestation": map[string]any{"document": []byte{}}}), "no document"},
		{"nothing written", func(m *mock) { m.answer = func([]byte) []byte { return nil } }, "cannot be read"},
		{"a document that is cut off", func(m *mock) {
			m.answer = func([]byte) []byte { return []byte("\xa1\x6bAttestation\xa1\x68document\x59\xff\xff") }
		}, "cannot be read"},
		{"an owner's password", func(m *mock) { m.tpm.Tool(t, t.TempDir(), "tpm2_changeauth", "-c", "owner", "secret") }, "has a password"},
		{"an index of another program", func(m *mock) {
			m.tpm.Tool(t, t.TempDir(), "tpm2_nvdefine", "0x01800b00", "-Q", "-C", "o", "-s", "8", "-a", "ownerread|ownerwrite")
		}, "in use by another program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMock(t, pki, ca.Make(t))
			c.edit(m)
			_, err := nitrotpm.At(m.socket).Document(t.Context(), nonce)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			// What was defined is gone whatever happened, so that a second try says the same.
			m.mu.Lock()
			defined, undefined := slices.Contains(m.commands, vendorNSM), slices.Contains(m.commands, 0x122)
			m.mu.Unlock()
			if defined && !undefined {
				t.Error("the message buffer was left in the TPM")
			}
		})
	}
}

func TestNoDevice(t *testing.T) {
	if _, err := nitrotpm.At(filepath.Join(t.TempDir(), "none")).Document(t.Context(), nonce); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "TpmSupport") {
		t.Error(err)
	}
	for _, n := range [][]byte{nil, make([]byte, 513)} {
		if _, err := nitrotpm.At("/dev/null").Document(t.Context(), n); err == nil || !strings.Contains(err.Error(), "nonce") {
			t.Error(err)
		}
	}
}

// A TPM that never answers keeps nobody longer than he wants to wait, and lets nobody else at it.
func TestSilentTPM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tpm")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	device := nitrotpm.At(path)
	for _, want := range []string{"no answer", "busy"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := device.Document(ctx, nonce); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		cancel()
	}
}
