package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"log/slog"

	"github.com/raypher/raypher/startconf"
)

// A folder is taken only when it is the account's alone, or root's and empty; a mistyped path is never given away.
func TestPrivateFolder(t *testing.T) {
	self := account{os.Getuid(), os.Getgid()}
	other := account{fallbackUID, fallbackUID}
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		who  account
		root bool // the case needs root
		want string
	}{
		{"missing", func(*testing.T, string) {}, self, false, ""},
		{"own and private", func(t *testing.T, dir string) { check(t, os.Mkdir(dir, 0o700)) }, self, false, ""},
		{"others may enter", func(t *testing.T, dir string) {
			check(t, os.Mkdir(dir, 0o700))
			check(t, os.Chmod(dir, 0o755))
		}, self, false, "lets others in"},
		{"a file", func(t *testing.T, dir string) { check(t, os.WriteFile(dir, nil, 0o600)) }, self, false, "not a directory"},
		{"a symbolic link", func(t *testing.T, dir string) { check(t, os.Symlink(t.TempDir(), dir)) }, self, false, "not a directory"},
		{"root's and empty", func(t *testing.T, dir string) { check(t, os.Mkdir(dir, 0o700)) }, other, true, ""},
		{"root's with only the old socket in it", func(t *testing.T, dir string) {
			check(t, os.Mkdir(dir, 0o700))
			check(t, os.WriteFile(filepath.Join(dir, "s"), nil, 0o600))
		}, other, true, ""},
		{"root's with something in it", func(t *testing.T, dir string) {
			check(t, os.Mkdir(dir, 0o700))
			check(t, os.WriteFile(filepath.Join(dir, "shadow"), nil, 0o600))
		}, other, true, `"shadow" in it`},
		{"a third one's", func(t *testing.T, dir string) {
			check(t, os.Mkdir(dir, 0o700))
			check(t, os.Chown(dir, 12345, 12345))
		}, other, true, "owned by uid 12345"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Getuid() != 0 {
				t.Skip("giving folders away needs root")
			}
			dir := filepath.Join(t.TempDir(), "d")
			c.make(t, dir)
			err := privateFolder(dir, c.who, "s")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestLookUp(t *testing.T) {
	for _, c := range []struct {
		name, user string
		want       account
		err        string
	}{
		{"uid", "1234", account{1234, 1234}, ""},
		{"uid and gid", "1234:99", account{1234, 99}, ""},
		{"root by number", "0", account{}, "does not run as root"},
		{"root by name", "root", account{}, "does not run as root"},
		{"unknown", "no-such-user-here", account{}, "nor a known user"},
		{"negative", "-1", account{}, "nor a known user"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if os.Getuid() != 0 {
				t.Skip("becoming another user needs root")
			}
			got, err := lookUp(c.user)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
			} else if err != nil || got != c.want {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestListen(t *testing.T) {
	self := account{os.Getuid(), os.Getgid()}
	for _, bad := range []string{"", "unix:", "unix:relative", "tcp:127.0.0.1:1", "vsock:x", "/path"} {
		if l, err := listen(bad, self); err == nil {
			l.Close()
			t.Errorf("%q: listens", bad)
		}
	}
	path := filepath.Join(t.TempDir(), "run", "s")
	first, err := listen("unix:"+path, self)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info.Mode(), err)
	}
	if _, err := listen("unix:"+path, self); err == nil || !strings.Contains(err.Error(), "another process serves there") {
		t.Errorf("a second one at the same path: %v", err)
	}
	first.Close() // as a killed process leaves it
	second, err := listen("unix:"+path, self)
	if err != nil {
		t.Fatalf("after the first one died: %v", err)
	}
	second.Close()
}

// Whatever is wrong with the options is said before anything is changed.
func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "ibev.conf")
	check(t, os.WriteFile(conf, []byte("ttl_seconds = 60\n"), 0o600))
	open := filepath.Join(dir, "open.conf")
	check(t, os.WriteFile(open, nil, 0o600))
	check(t, os.Chmod(open, 0o666))
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"a signer whose device is not here", Options{Signer: "nitro"}, "signer nitro: /dev/nsm: no such file or directory: tier nitro is for Nitro Enclaves"},
		{"an unknown signer", Options{Signer: "hsm"}, "use software"},
		{"another signer's device", Options{Signer: "nitro", TPMDevice: "/dev/tpmrm0"}, "use --signer tpm"},
		{"a port that is none", Options{Signer: "software", Config: "vsock:x"}, "--config \"vsock:x\": use vsock:PORT"},
		{"no configuration", Options{Signer: "software", Config: filepath.Join(dir, "none")}, "start configuration"},
		{"a configuration that anyone may write", Options{Signer: "software", Config: open}, "chmod go-w"},
		{"root", Options{Signer: "software", Config: conf, User: "0"}, "does not run as root"},
		{"a bad address", Options{Signer: "software", Config: conf, State: filepath.Join(dir, "state"), Listen: "tcp:1", User: ""}, "--listen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Log = slog.New(slog.DiscardHandler)
			if err := Run(context.Background(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// The first configuration that is one is taken, whatever came before it.
func TestReceiveConfiguration(t *testing.T) {
	caller := "caller_key = sha256:" + strings.Repeat("ab", 32) + "\n"
	framed := func(text string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	check(t, err)
	type outcome struct {
		c   *startconf.Configuration
		err error
	}
	received := make(chan outcome, 1)
	go func() {
		c, err := ReceiveConfiguration(t.Context(), l, slog.New(slog.DiscardHandler))
		received <- outcome{c, err}
	}()
	for _, c := range []struct {
		name string
		sent []byte
		want string
	}{
		{"nothing", nil, "refused: EOF"},
		{"half a size", []byte{0, 0}, "refused: unexpected EOF"},
		{"no bytes", framed(""), "refused: a start configuration of 0 bytes"},
		{"too many bytes", []byte{0xff, 0xff, 0xff, 0xff}, "refused: a start configuration of 4294967295 bytes"},
		{"half a text", framed(caller)[:20], "refused: unexpected EOF"},
		{"another language", framed("{}"), "refused: start configuration:1:"},
		{"nobody may call", framed("ttl_seconds = 60\n"), "refused: start configuration: no caller_key"},
		{"a configuration", framed(caller), "ok sha256:"},
	} {
		conn, err := net.Dial("unix", l.Addr().String())
		check(t, err)
		_, err = conn.Write(c.sent)
		check(t, err)
		check(t, conn.(*net.UnixConn).CloseWrite())
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), c.want) {
			t.Errorf("%s: %q, %v, want %q", c.name, answer, err, c.want)
		}
		conn.Close()
	}
	o := <-received
	if o.err != nil || len(o.c.CallerKeys) != 1 {
		t.Errorf("%+v, %v", o.c, o.err)
	}
	if conn, err := net.Dial("unix", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("a second configuration could be sent")
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	check(t, err)
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n, err := openNotify()
	check(t, err)
	n.send("READY=1")
	n.close()
	text := make([]byte, 64)
	size, err := l.Read(text)
	if err != nil && !errors.Is(err, io.EOF) || string(text[:size]) != "READY=1" {
		t.Errorf("%q, %v", text[:size], err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
