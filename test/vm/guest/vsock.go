package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/test/hostile"
)

// modules is the folder of those that are loaded first; its being there makes the guest play overVsock.
const modules = "/modules"

// itself is this machine's context id, over the loopback transport (VMADDR_CID_LOCAL of linux/vm_sockets.h).
const itself = 1

// overVsock runs an enclave that serves on vsock, for a hostile parent and then for raypherd.
func (m *machine) overVsock() {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"load the modules", load},
		{"a hostile parent", m.hostileOverVsock},
		{"raypherd", m.daemonOverVsock},
	} {
		if err := step.do(); err != nil {
			m.fail("%s: %v", step.name, err)
			return
		}
	}
}

func load() error {
	paths, err := filepath.Glob(modules + "/*") // sorted
	if err != nil {
		return err
	}
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(file.Fd()), "", 0)
		file.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// enclave starts the service on vsock; its state is in a folder.
func (m *machine) enclave(state string) (*exec.Cmd, *strings.Builder, error) {
	said := new(strings.Builder)
	e := exec.Command("/bin/raypher-enclave", "--dev", "--listen", "vsock:5000", "--config", "vsock:5001", "--state", state)
	e.Stderr = said
	return e, said, e.Start()
}

func dialVsock(port uint32) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		var err error
		for end := time.Now().Add(patient); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			var conn *vsock.Conn
			if conn, err = vsock.Dial(itself, port, nil); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
}

func (m *machine) hostileOverVsock() error {
	const keys = "/run/hostile/keys"
	caller, err := link.Prepare(keys, func(string) {})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(keys, startconf.FileName))
	if err != nil {
		return err
	}
	e, said, err := m.enclave("/run/hostile-enclave")
	if err != nil {
		return err
	}
	at := func(port int) string { return fmt.Sprintf("vsock:%d:%d", itself, port) }
	target := hostile.Target{
		Dial: dialVsock(5000), Configure: dialVsock(5001),
		Link: link.Options{
			Address: at(5000), ConfigureAt: at(5001), Configuration: text, Caller: caller, PinFile: filepath.Join(keys, link.PinFile),
		},
		Caller: caller.Certificate(), Folder: "/run/hostile", PID: e.Process.Pid, Slow: true,
		Say: func(format string, args ...any) { fmt.Printf("GUEST hostile parent: "+format+"\n", args...) },
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*patient)
	defer cancel()
	err = target.Run(ctx)
	if killErr := e.Process.Kill(); killErr != nil {
		err = errors.Join(err, fmt.Errorf("the enclave ended: %w", killErr))
	}
	_ = e.Wait() // killed
	for line := range strings.Lines(said.String()) {
		if strings.Contains(line, "panic") || strings.Contains(line, "level=ERROR") {
			err = errors.Join(err, errors.New(line))
		}
	}
	return err
}

// daemonOverVsock: an agent of raypherd runs under visas of an enclave that is reached by its context id.
func (m *machine) daemonOverVsock() error {
	e, said, err := m.enclave("/run/enclave")
	if err != nil {
		return err
	}
	if err := m.startDaemon("--enclave-cid", fmt.Sprint(itself), "--enclave-mode", "software"); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	m.untilMinted()
	m.governed(0, 0, "raypherd over vsock")
	_ = e.Process.Kill()
	_ = e.Wait() // killed
	out := m.command(0, "/bin/raypher", "run", "--policy", policyPath, "--", program, "read", "notes")
	if out.code == 0 || !strings.Contains(out.stderr, "enclave") {
		m.fail("without an enclave: status %d\n%s", out.code, out.stderr)
	}
	if e, _, err = m.enclave("/run/enclave"); err != nil {
		return err
	}
	m.untilMinted()
	fmt.Println("GUEST an agent runs after the enclave was started anew")
	if !strings.Contains(m.log.String(), "nothing but its pinned key says who the enclave is") {
		m.fail("raypherd does not say that nothing vouches for the enclave:\n%s", m.log.String())
	}
	_ = e.Process.Kill()
	_ = e.Wait() // killed
	return nil
}

// untilMinted waits until something can be run.
func (m *machine) untilMinted() {
	var out outcome
	for end := time.Now().Add(patient); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if out = m.command(0, "/bin/raypher", "run", "--policy", policyPath, "--", program, "read", "notes"); out.code == 0 {
			return
		}
	}
	m.fail("nothing can be run: status %d\n%s\n%s", out.code, out.stderr, m.log.String())
}
