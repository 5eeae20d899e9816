package link

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/raypher/raypher/startconf"
)

// stopGrace is how long a local enclave may take to end before it is killed.
const stopGrace = 5 * time.Second

// LocalOptions say how to start an enclave process on this host.
type LocalOptions struct {
	Binary string // raypher-enclave
	Socket string // where it shall serve; its folder becomes the enclave user's
	State  string // the enclave's own folder: signing key, ceiling
	// Keys is the parent's folder: its key, the enclave's pinned key, and the start configuration, which is written at the
	// first start and may be edited. Made if missing, mode 0700.
	Keys string
	User string // that the process becomes; empty: its default
	// TPMDevice makes the signer that of the TPM there; empty: a key file, tier software.
	TPMDevice string
	// Development lets the enclave make what no operator gave it: an operator key, and a ceiling that permits everything. Without it
	// nothing is granted before an operator has installed a ceiling.
	Development bool
	// Egress lists the hosts that the enclave may be connected to, besides those that the start configuration needs.
	Egress []string
	// Attached is called whenever the enclave was connected; nil: nobody is.
	Attached func()
	Store    Store
	Log      *slog.Logger
	// Progress is told in words what was made at a first start and what is being waited for. May be nil.
	Progress func(string)
}

// Local is an enclave process that this process started, and the link to it.
type Local struct {
	*Link
	process   *exec.Cmd
	lifeline  io.Closer
	listening chan struct{} // closed when it said that it is ready
	ended     chan struct{}
	tail      *tail
	err       error // set before ended is closed
}

// StartLocal starts an enclave process and connects to it. It returns when the enclave is reachable. The
// process ends with Close, and also when this process dies in any way: its standard input is a pipe that then closes.
func StartLocal(ctx context.Context, o LocalOptions) (*Local, error) {
	say := o.Progress
	if say == nil {
		say = func(string) {}
	}
	caller, err := prepareLocal(o, say)
	if err != nil {
		return nil, fmt.Errorf("start enclave: %w", err)
	}
	local, err := spawn(o)
	if err != nil {
		return nil, fmt.Errorf("start enclave: %w", err)
	}
	if err := local.waitListening(ctx); err != nil {
		local.end()
		return nil, fmt.Errorf("start enclave: %w", err)
	}
	configuration, err := startconf.Read(o.Keys)
	if err == nil {
		local.Link, err = Dial(Options{
			Address: "unix:" + o.Socket, Caller: caller, PinFile: filepath.Join(o.Keys, PinFile), Store: o.Store, Log: o.Log,
			Egress: withConfigured(o.Egress, configuration), Attached: o.Attached,
		})
	}
	if err != nil {
		local.end()
		return nil, fmt.Errorf("start enclave: %w", err)
	}
	if err := local.ready(ctx); err != nil {
		local.Close()
		return nil, fmt.Errorf("start enclave: %w", err)
	}
	if o.TPMDevice == "" {
		say("enclave ready: tier software, which protects nothing; for development only")
	} else {
		say("enclave ready: its key lies in the TPM " + o.TPMDevice)
	}
	return local, nil
}

// prepareLocal makes what a first start lacks.
func prepareLocal(o LocalOptions, say func(string)) (*Caller, error) {
	if o.Store == nil || o.Log == nil {
		return nil, errors.New("store and log are needed")
	}
	return Prepare(o.Keys, say)
}

// Prepare makes what a first start lacks in the parent's folder: the caller key, and the start configuration that names it, and roots of
// attestation where an enclave shall follow its own image under others than AWS's.
func Prepare(keys string, say func(string), roots ...startconf.KeyHash) (*Caller, error) {
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, err
	}
	caller, err := OpenCaller(keys)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(keys, startconf.FileName)
	c, err := startconf.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		say("first start: writing the enclave's start configuration " + path)
		return caller, startconf.Write(keys, &startconf.Configuration{CallerKeys: []startconf.KeyHash{caller.Hash()}, NitroRoots: roots})
	}
	if err != nil {
		return nil, err
	}
	if !slices.Contains(c.CallerKeys, caller.Hash()) {
		return nil, fmt.Errorf("%s does not name the key in %s: add `caller_key = %s`", path, filepath.Join(keys, CallerFile), caller.Hash())
	}
	return caller, nil
}

// spawn starts the process in a process group of its own, so that ctrl-C at a terminal ends the parent first.
func spawn(o LocalOptions) (*Local, error) {
	arguments := []string{"--listen", "unix:" + o.Socket, "--state", o.State, "--config", o.Keys, "--until-stdin-closes"}
	if o.Development {
		arguments = append(arguments, "--dev")
	}
	if o.User != "" {
		arguments = append(arguments, "--user", o.User)
	}
	if o.TPMDevice != "" {
		arguments = append(arguments, "--signer", "tpm", "--tpm-device", o.TPMDevice)
	}
	process := exec.Command(o.Binary, arguments...)
	process.Env = []string{} // it needs nothing, and what it does not have cannot leak
	process.Dir = "/"
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	lifeline, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := process.StderrPipe()
	if err != nil {
		return nil, err
	}
	ready, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, fmt.Errorf("%w: is raypher-enclave installed beside raypherd?", err)
	}
	l := &Local{process: process, lifeline: lifeline, listening: make(chan struct{}), ended: make(chan struct{}), tail: new(tail)}
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		l.tail.follow(output, o.Log)
	}()
	go func() {
		defer close(l.ended)
		var line [1]byte
		if _, err := ready.Read(line[:]); err == nil {
			close(l.listening)
		}
		<-followed
		l.err = process.Wait()
	}()
	return l, nil
}

// waitListening waits until the process says that it serves, so that connecting needs no second attempt.
func (l *Local) waitListening(ctx context.Context) error {
	select {
	case <-l.listening:
		return nil
	case <-l.ended:
		return l.endedEarly()
	case <-ctx.Done():
		return fmt.Errorf("%w: it does not become ready: %w: %s", ErrUnreachable, ctx.Err(), l.tail)
	}
}

func (l *Local) endedEarly() error {
	return fmt.Errorf("%w: raypher-enclave ended (%v): %s", ErrUnreachable, l.err, l.tail)
}

// ready waits for the enclave, or for its end.
func (l *Local) ready(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-l.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := l.Wait(ctx)
	select {
	case <-l.ended:
		return l.endedEarly()
	default:
		return err
	}
}

// Ended is closed when the enclave process has ended.
func (l *Local) Ended() <-chan struct{} { return l.ended }

// PID is the process id of the enclave.
func (l *Local) PID() int { return l.process.Process.Pid }

// Close ends the process, waits for it and closes the link.
func (l *Local) Close() error {
	l.ending.Store(true)
	l.end() // while its journal is still stored: the last that it writes is a snapshot of its ledger
	return l.Link.Close()
}

func (l *Local) end() {
	l.lifeline.Close()
	l.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-l.ended:
	case <-time.After(stopGrace):
		l.process.Process.Kill()
		<-l.ended
	}
}

// tail passes the enclave's log on and keeps its last lines for an error message.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) follow(r io.Reader, log *slog.Logger) {
	const kept = 5
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		log.Info("enclave: " + lines.Text())
		t.mu.Lock()
		t.lines = append(t.lines, lines.Text())
		if len(t.lines) > kept {
			t.lines = t.lines[1:]
		}
		t.mu.Unlock()
	}
	io.Copy(io.Discard, r) // a line beyond the scanner's bound must not block the process
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, " | ")
}
