package tpm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/signer"
)

var digest = sha256.Sum256([]byte("tree head"))

// between sits between the signer and a TPM. Its hook may answer in the TPM's place; it runs in the signer's goroutine.
type between struct {
	transport.TPMCloser
	mu   sync.Mutex
	hook func(command []byte, send func() ([]byte, error)) ([]byte, error)
}

func (b *between) Send(command []byte) ([]byte, error) {
	b.mu.Lock()
	hook := b.hook
	b.mu.Unlock()
	send := func() ([]byte, error) { return b.TPMCloser.Send(command) }
	if hook == nil {
		return send()
	}
	return hook(command, send)
}

func (b *between) set(hook func(command []byte, send func() ([]byte, error)) ([]byte, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hook = hook
}

func commandCode(command []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) }

// saying is a response without parameters.
func saying(code tpm2.TPMRC) []byte {
	r := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	r = binary.BigEndian.AppendUint32(r, headerSize)
	return binary.BigEndian.AppendUint32(r, uint32(code))
}

// plain is a TPM without an EK certificate, which is quick to make.
func plain(t testing.TB) *tpmtest.TPM {
	t.Helper()
	return tpmtest.Start(t, t.TempDir())
}

func mustSign(t testing.TB, k *Key) {
	t.Helper()
	if _, err := k.Sign(context.Background(), digest[:]); err != nil {
		t.Fatal(err)
	}
}

// Every code that package words knows, from the command that signs. The next step is in the error, and afterwards all is well.
func TestRefusals(t *testing.T) {
	b := &between{TPMCloser: device(t, plain(t))}
	k := open(t, b, t.TempDir(), Configuration{})
	tried := map[tpm2.TPMRC]bool{}
	for _, c := range []struct {
		code tpm2.TPMRC
		want string
	}{
		{tpm2.TPMRCLockout, "tpm2_dictionarylockout --clear-lockout"},
		{tpm2.TPMRCRetry, "look for another process that floods it"},
		{tpm2.TPMRCYielded, "try again"},
		{tpm2.TPMRCTesting, "try again in a minute"},
		{tpm2.TPMRCFailure, "power the machine off and on"},
		{tpm2.TPMRCUpgrade, "finish it with the vendor's tool"},
		{tpm2.TPMRCInitialize, "update the machine's firmware"},
		{tpm2.TPMRCObjectMemory, "tpm2_flushcontext --transient-object"},
		{tpm2.TPMRCSessionMemory, "tpm2_flushcontext --loaded-session"},
		{tpm2.TPMRCSessionHandles, "tpm2_flushcontext --saved-session"},
		{tpm2.TPMRCMemory, "stop other users of it"},
		{tpm2.TPMRCAuthFail, "tpm2_changeauth"},
		{tpm2.TPMRCBadAuth, "tpm2_changeauth"},
		{tpm2.TPMRCHierarchy, "enable it in the firmware's setup"},
		{tpm2.TPMRCDisabled, "enable the TPM in the firmware's setup"},
		{tpm2.TPMRCCommandCode, "firmware of revision 1.16 or later"},
		{tpm2.TPMRCCurve, "knows no P-256"},
		{tpm2.TPMRCScheme, "knows no ECDSA with SHA-256"},
		{tpm2.TPMRCIntegrity, "move the key file away"},
		{tpm2.TPMRCNVUnavailable, "memory is not available just now"},
		{tpm2.TPMRCNVRate, "wait a few seconds"},
	} {
		t.Run(c.code.Error(), func(t *testing.T) {
			b.set(func(command []byte, send func() ([]byte, error)) ([]byte, error) {
				if commandCode(command) == tpm2.TPMCCSign {
					return saying(c.code), nil
				}
				return send()
			})
			_, err := k.Sign(t.Context(), digest[:])
			if !errors.Is(err, signer.ErrDevice) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrDevice with %q", err, c.want)
			}
			b.set(nil)
			mustSign(t, k)
		})
		tried[c.code] = true
	}
	for _, a := range advice {
		if !tried[a.code] {
			t.Errorf("%v: advice that no test holds", a.code)
		}
	}
}

// A TPM that is busy for a moment costs a moment.
func TestBusy(t *testing.T) {
	b := &between{TPMCloser: device(t, plain(t))}
	k := open(t, b, t.TempDir(), Configuration{})
	refused := 0
	b.set(func(command []byte, send func() ([]byte, error)) ([]byte, error) {
		if refused < 3 {
			refused++
			return saying(tpm2.TPMRCRetry), nil
		}
		return send()
	})
	mustSign(t, k)
	if refused != 3 {
		t.Errorf("asked again %d times", refused)
	}
}

// Answers that are none, or are another's, are errors and never signatures.
func TestGarbage(t *testing.T) {
	for name, bend := range map[string]func([]byte) []byte{
		"a bit of the signature":     func(r []byte) []byte { r[30] ^= 1; return r },
		"a bit of the HMAC":          func(r []byte) []byte { r[len(r)-1] ^= 1; return r },
		"cut off":                    func(r []byte) []byte { return r[:len(r)-5] },
		"success and nothing else":   func([]byte) []byte { return saying(0) },
		"zeroes":                     func(r []byte) []byte { clear(r[headerSize:]); return r },
		"a size that runs out of it": func(r []byte) []byte { r[headerSize] = 0xff; return r },
		"nothing":                    func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := &between{TPMCloser: device(t, plain(t))}
			k := open(t, b, t.TempDir(), Configuration{})
			b.set(func(command []byte, send func() ([]byte, error)) ([]byte, error) {
				r, err := send()
				if err == nil && commandCode(command) == tpm2.TPMCCSign {
					r = bend(r)
				}
				return r, err
			})
			if _, err := k.Sign(t.Context(), digest[:]); !errors.Is(err, signer.ErrDevice) {
				t.Errorf("error %v, want ErrDevice", err)
			}
			b.set(nil)
			mustSign(t, k)
		})
	}
}

// An answer from an earlier moment is not taken again, although it is a good signature of the same digest.
func TestReplayedAnswer(t *testing.T) {
	b := &between{TPMCloser: device(t, plain(t))}
	k := open(t, b, t.TempDir(), Configuration{})
	var earlier []byte
	b.set(func(command []byte, send func() ([]byte, error)) ([]byte, error) {
		if commandCode(command) != tpm2.TPMCCSign {
			return send()
		}
		if earlier != nil {
			return earlier, nil
		}
		r, err := send()
		earlier = append(earlier, r...)
		return r, err
	})
	mustSign(t, k)
	if _, err := k.Sign(t.Context(), digest[:]); !errors.Is(err, signer.ErrDevice) {
		t.Errorf("error %v, want ErrDevice", err)
	}
}

// A TPM that was reset has forgotten its keys and sessions; the signer loads them again.
func TestReset(t *testing.T) {
	tpm := plain(t)
	k := open(t, device(t, tpm), t.TempDir(), Configuration{})
	mustSign(t, k)
	tpm.Reset(t)
	mustSign(t, k)
}

// A TPM that vanishes is a clear error, now and later, and the process can know.
func TestVanishes(t *testing.T) {
	tpm := plain(t)
	d := device(t, tpm)
	k := open(t, d, t.TempDir(), Configuration{})
	tpm.Stop()
	for range 2 {
		if _, err := k.Sign(t.Context(), digest[:]); !errors.Is(err, signer.ErrDevice) || !errors.Is(err, ErrLost) {
			t.Errorf("error %v, want ErrDevice and ErrLost", err)
		}
	}
	select {
	case <-d.Lost():
	default:
		t.Error("the device does not say that it is lost")
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// A caller who gives up leaves the device to the others.
func TestGivesUp(t *testing.T) {
	b := &between{TPMCloser: device(t, plain(t))}
	k := open(t, b, t.TempDir(), Configuration{})
	started, proceed := make(chan struct{}), make(chan struct{})
	b.set(func(command []byte, send func() ([]byte, error)) ([]byte, error) {
		close(started)
		<-proceed
		b.set(nil)
		return send()
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := k.Sign(ctx, digest[:])
		result <- err
	}()
	<-started
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	close(proceed)
	mustSign(t, k)
}

// A late answer is not taken for the answer of the next command.
func TestLate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l := must(net.Listen("unix", path))(t)
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for i := range 2 {
			command := make([]byte, headerSize)
			if _, err := io.ReadFull(conn, command); err != nil {
				return
			}
			if i == 0 {
				time.Sleep(300 * time.Millisecond)
			}
			conn.Write(saying(tpm2.TPMRC(i + 1)))
		}
	}()
	d := must(OpenDevice(path))(t)
	defer d.Close()
	d.timeout = 50 * time.Millisecond
	if _, err := d.Send(saying(0)); !errors.Is(err, ErrLate) {
		t.Fatalf("error %v, want ErrLate", err)
	}
	d.timeout = 10 * time.Second
	answer, err := d.Send(saying(0))
	if err != nil || answer[9] != 2 {
		t.Errorf("answer % x, error %v: want the second one", answer, err)
	}
}

// A device that does not speak the protocol is given up.
func TestNoTPM(t *testing.T) {
	for name, answer := range map[string]string{
		"text": "HTTP/1.1 400 Bad Request\r\n\r\n", "size zero": "\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00",
		"huge size": "\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00", "cut off": "\x80\x01\x00", "nothing": "",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			l := must(net.Listen("unix", path))(t)
			defer l.Close()
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(conn, answer)
				conn.Close()
			}()
			d := must(OpenDevice(path))(t)
			if _, _, err := Open(t.Context(), Options{TPM: d, State: t.TempDir()}); !errors.Is(err, ErrLost) || !errors.Is(err, signer.ErrDevice) {
				t.Errorf("error %v, want ErrLost", err)
			}
		})
	}
}

func TestOpenDevice(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, "stale")
	l := must(net.Listen("unix", stale))(t)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file or directory: this host has no TPM",
		file:                          "neither a TPM device nor a socket",
		stale:                         "start swtpm",
		"/dev/null":                   "is it a TPM?",
	} {
		if _, err := OpenDevice(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if err := openError("/dev/tpmrm0", &os.PathError{Op: "open", Path: "/dev/tpmrm0", Err: os.ErrPermission}); err.Error() != "/dev/tpmrm0: permission denied: run as root or join group tss" {
		t.Errorf("%v", err)
	}
}

// The key file of another TPM, or garbage, is an error that says so; the key is never silently replaced.
func TestForeignBlobs(t *testing.T) {
	state := t.TempDir()
	open(t, device(t, plain(t)), state, Configuration{}).Close()
	if _, _, err := Open(t.Context(), Options{TPM: device(t, plain(t)), State: state}); err == nil || !strings.Contains(err.Error(), "of another TPM") {
		t.Errorf("error %v", err)
	}
	path := filepath.Join(state, blobsFile)
	text := must(os.ReadFile(path))(t)
	for name, bent := range map[string][]byte{"cut off": text[:20], "empty": {}, "too long": make([]byte, maxBlobsFile+1)} {
		if err := os.WriteFile(path, bent, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(t.Context(), Options{TPM: device(t, plain(t)), State: state}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if kept := must(os.ReadFile(path))(t); string(kept) != string(bent) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}
