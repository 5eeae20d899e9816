package stage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/instance"
)

// How long a part of the pair may take to listen, also where an emulated machine loads the guard's programs, and to end.
const (
	starting = 2 * time.Minute
	patience = 20 * time.Second
)

// Pair is a raypher-enclave and a raypherd, started as two processes, with folders of their own below a home.
type Pair struct {
	Run   string // run folder, with the sockets
	State string // state folder, with the journal

	programs string
	flags    []string // more of raypherd's
	nitro    *Nitro   // the enclave; nil: one of the pair's own
	settings string   // more lines of the enclave's start configuration
	log      *os.File
	enclave  *exec.Cmd
	parent   *exec.Cmd
}

// OpenPair starts both from the folder programs, raypherd with flags, and waits until raypherd serves. Their output goes to pair.log in the home.
// A raypherd that runs already elsewhere on the machine is not disturbed: folders, cgroup and namespace are others.
func OpenPair(ctx context.Context, programs string, home *Home, flags ...string) (*Pair, error) {
	return openPair(ctx, programs, home, nil, flags...)
}

// OpenBriefPair is OpenPair with visas of a lifetime, in whole seconds (at least startconf.MinTTL).
func OpenBriefPair(ctx context.Context, programs string, home *Home, lifetime time.Duration, flags ...string) (*Pair, error) {
	return furnishPair(ctx, home, &Pair{programs: programs, flags: flags, settings: fmt.Sprintf("ttl_seconds = %d\n", int(lifetime.Seconds()))})
}

func openPair(ctx context.Context, programs string, home *Home, nitro *Nitro, flags ...string) (*Pair, error) {
	return furnishPair(ctx, home, &Pair{programs: programs, flags: flags, nitro: nitro})
}

// furnishPair gives a pair its folders below a home, and starts it.
func furnishPair(ctx context.Context, home *Home, pair *Pair) (*Pair, error) {
	log, err := os.Create(filepath.Join(home.Root, "pair.log"))
	if err != nil {
		return nil, err
	}
	pair.Run, pair.State, pair.log = filepath.Join(home.Root, "run"), filepath.Join(home.Root, "state"), log
	if err := pair.open(ctx); err != nil {
		pair.Close()
		return nil, fmt.Errorf("%w\n%s", err, pair.Log())
	}
	return pair, nil
}

func (p *Pair) open(ctx context.Context) (err error) {
	socket := p.socket()
	if err := errors.Join(os.MkdirAll(p.Run, 0o755), os.Mkdir(filepath.Dir(socket), 0o700), os.MkdirAll(p.State, 0o755)); err != nil {
		return err
	}
	if p.nitro != nil {
		return p.openNitro(ctx)
	}
	configuration, err := p.configure(ctx)
	if err == nil {
		err = p.openEnclave(ctx, configuration)
	}
	if err != nil {
		return err
	}
	return p.openParent(ctx)
}

// openEnclave starts the trusted service on this host.
func (p *Pair) openEnclave(ctx context.Context, configuration string) (err error) {
	p.enclave, err = p.start("raypher-enclave", "--dev", "--listen", "unix:"+p.socket(),
		"--config", configuration, "--state", filepath.Join(p.State, "enclave"))
	if err != nil {
		return err
	}
	if err := answers(ctx, p.enclave, p.socket()); err != nil {
		return fmt.Errorf("raypher-enclave: %w", err)
	}
	return nil
}

// configure writes the enclave's start configuration, which names the key of the raypherd that may call it.
func (p *Pair) configure(ctx context.Context) (path string, err error) {
	line, err := p.callerLine(ctx)
	if err != nil {
		return "", err
	}
	path = filepath.Join(p.State, "ibev.conf")
	return path, os.WriteFile(path, append(line, p.settings...), 0o644)
}

// callerLine is the one by which an enclave lets this raypherd call it.
func (p *Pair) callerLine(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	print := exec.CommandContext(ctx, filepath.Join(p.programs, "raypherd"), "--caller-key", "--run-dir", p.Run, "--state-dir", p.State)
	print.Stderr = p.log
	line, err := print.Output()
	if err != nil {
		return nil, fmt.Errorf("raypherd --caller-key: %w", err)
	}
	return line, nil
}

func (p *Pair) openParent(ctx context.Context) (err error) {
	enclave := []string{"--enclave-socket", p.socket()}
	if p.nitro != nil {
		enclave = p.nitro.parentFlags()
	}
	arguments := slices.Concat([]string{"--run-dir", p.Run, "--state-dir", p.State}, enclave, p.flags)
	p.parent, err = p.start("raypherd", arguments...)
	if err != nil {
		return err
	}
	if err := answers(ctx, p.parent, filepath.Join(p.Run, "raypherd.sock")); err != nil {
		return fmt.Errorf("raypherd: %w", err)
	}
	return nil
}

func (p *Pair) socket() string { return filepath.Join(p.Run, "enclave", "enclave.sock") }

func (p *Pair) start(program string, arguments ...string) (*exec.Cmd, error) {
	cmd := exec.Command(filepath.Join(p.programs, program), arguments...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return cmd, nil
}

// answers waits until a process that was started accepts connections at its unix socket.
func answers(ctx context.Context, cmd *exec.Cmd, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		if ended(cmd) {
			return errors.New("ended before it listened")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("does not listen on %s: %w", socket, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ended reports whether a process is over that nobody has waited for.
func ended(cmd *exec.Cmd) bool {
	var state unix.Siginfo
	err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &state, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || state.Signo != 0
}

// KillEnclave ends the enclave as a crash would.
func (p *Pair) KillEnclave() {
	kill(p.enclave)
	p.enclave = nil
}

// RestartEnclave starts the trusted service again after KillEnclave, with the state that it left.
func (p *Pair) RestartEnclave(ctx context.Context) error {
	configuration, err := p.configure(ctx)
	if err != nil {
		return err
	}
	return p.openEnclave(ctx, configuration)
}

// KillParent ends raypherd as a crash would.
func (p *Pair) KillParent() {
	kill(p.parent)
	p.parent = nil
}

// RestartParent starts raypherd again after KillParent.
func (p *Pair) RestartParent(ctx context.Context) error { return p.openParent(ctx) }

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // it may have ended by itself
	_ = cmd.Wait()         // killed
}

// Processes are the pids of the parts that run.
func (p *Pair) Processes() (pids []int) {
	for _, cmd := range []*exec.Cmd{p.enclave, p.parent} {
		if cmd != nil {
			pids = append(pids, cmd.Process.Pid)
		}
	}
	return pids
}

// Log is what both have written so far.
func (p *Pair) Log() string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// cli is the program with which a person asks this pair.
func (p *Pair) cli() *CLI {
	return &CLI{Program: filepath.Join(p.programs, "raypher"), Environment: p.Environment()}
}

// Environment makes the CLI find this pair instead of the machine's own.
func (p *Pair) Environment() []string { return []string{"RAYPHER_RUN_DIR=" + p.Run} }

// Close ends raypherd first, then the enclave, and waits for both.
func (p *Pair) Close() {
	for _, cmd := range []*exec.Cmd{p.parent, p.enclave} {
		if cmd == nil {
			continue
		}
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // how it ended is in the log
		late.Stop()
	}
	p.parent, p.enclave = nil, nil
	if err := p.sweep(); err != nil {
		fmt.Fprintln(p.log, "something of the pair is left:", err)
	}
	p.log.Close()
}

// sweep ends the agents that are left and takes cgroup and pins away, which a raypherd leaves in place for the next one when it is
// killed, or ended while there are agents.
func (p *Pair) sweep() error {
	paths, err := instance.At(p.Run, p.State)
	if err != nil {
		return err
	}
	cgroups, err := cgroup.Open(paths.Cgroup)
	if err != nil {
		return err
	}
	defer cgroups.Close()
	names, err := cgroups.Agents()
	for _, name := range names {
		if group, findErr := cgroups.Find(name); findErr == nil {
			err = errors.Join(err, group.Kill())
			if empty, watchErr := group.Empty(); watchErr == nil {
				select {
				case <-empty:
				case <-time.After(patience):
				}
			}
		}
	}
	return errors.Join(err, cgroups.Remove(), os.RemoveAll(paths.Pins))
}
