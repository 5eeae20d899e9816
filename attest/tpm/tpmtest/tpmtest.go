// Package tpmtest makes TPMs for tests: swtpm, the software TPM, with an EK certificate from a CA of its own. They are real
// TPMs in all that software can see, and nothing may trust them.
package tpmtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// CA is a maker of TPMs.
type CA struct {
	// Roots is a folder with the certificates that lead to its TPMs.
	Roots string
	dir   string
}

// startTimeout bounds the start of a simulator.
const startTimeout = 20 * time.Second

// need skips the test where swtpm is missing.
func need(t testing.TB) {
	t.Helper()
	for _, program := range []string{"swtpm", "swtpm_setup", "swtpm_localca", "swtpm_ioctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed: install the packages swtpm and swtpm-tools", program)
		}
	}
}

// NewCA makes a maker of TPMs; its keys are made with its first TPM.
func NewCA(t testing.TB) *CA {
	t.Helper()
	need(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "localca.conf"), fmt.Sprintf("statedir = %s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", dir))
	write(t, filepath.Join(dir, "localca.options"), "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n")
	write(t, filepath.Join(dir, "setup.conf"), fmt.Sprintf("create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = %s/localca.conf\ncreate_certs_tool_options = %[1]s/localca.options\nactive_pcr_banks = sha1,sha256\n", dir))
	return &CA{dir: dir, Roots: filepath.Join(dir, "roots")}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Make makes a TPM: a folder with its state, for Start.
func (c *CA) Make(t testing.TB) (state string) {
	t.Helper()
	state = t.TempDir()
	setup := exec.Command("swtpm_setup", "--tpm2", "--tpm-state", state, "--create-ek-cert", "--lock-nvram", "--config", filepath.Join(c.dir, "setup.conf"))
	if os.Getuid() == 0 {
		setup.Args = append(setup.Args, "--runas", "root")
	}
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
	if err := os.MkdirAll(c.Roots, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"swtpm-localca-rootca-cert.pem", "issuercert.pem"} {
		text, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(c.Roots, name), string(text))
	}
	return state
}

// TPM is a running simulator.
type TPM struct {
	Socket  string // speaks the TPM's protocol, one client at a time
	Control string // swtpm's control channel
	stop    func()
}

// Start runs the TPM of a state folder until the test ends or Stop. Its sockets lie in a folder of their own, because their
// paths are short.
func Start(t testing.TB, state string) *TPM {
	t.Helper()
	need(t)
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	tpm := &TPM{Socket: filepath.Join(dir, "tpm"), Control: filepath.Join(dir, "tpm.ctrl")}
	var log bytes.Buffer
	process := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--server", "type=unixio,path="+tpm.Socket,
		"--ctrl", "type=unixio,path="+tpm.Control, "--flags", "not-need-init,startup-clear")
	process.Stdout, process.Stderr = &log, &log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	tpm.stop = func() {
		if stopped {
			return
		}
		stopped = true
		process.Process.Kill()
		process.Wait()
		os.RemoveAll(dir)
	}
	t.Cleanup(tpm.stop)
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", tpm.Socket); err == nil {
			conn.Close()
			return tpm
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not start: %s", log.String())
		}
	}
}

// StartForMachine runs the TPM of a state folder for a virtual machine, which starts and stops it over the control channel that
// is returned (QEMU's -tpmdev emulator).
func StartForMachine(t testing.TB, state string) (control string) {
	t.Helper()
	need(t)
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	control = filepath.Join(dir, "ctrl")
	process := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,path="+control)
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(control); err == nil {
			return control
		}
		if time.Now().After(deadline) {
			t.Fatal("swtpm does not start")
		}
	}
}

// Stop ends the simulator as if its machine lost power.
func (t *TPM) Stop() { t.stop() }

// Reset switches it off and on, without cutting the connection.
func (t *TPM) Reset(tb testing.TB) {
	tb.Helper()
	if out, err := exec.Command("swtpm_ioctl", "--unix", t.Control, "-i").CombinedOutput(); err != nil {
		tb.Fatalf("swtpm_ioctl: %v %s", err, out)
	}
}

// Tool runs a program of tpm2-tools on the TPM, in folder dir.
func (t *TPM) Tool(tb testing.TB, dir, program string, arguments ...string) {
	tb.Helper()
	if _, err := exec.LookPath(program); err != nil {
		tb.Skipf("%s is not installed: install the package tpm2-tools", program)
	}
	tool := exec.Command(program, arguments...)
	tool.Dir = dir
	tool.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+t.Socket)
	if out, err := tool.CombinedOutput(); err != nil {
		tb.Fatalf("%s %s: %v\n%s", program, strings.Join(arguments, " "), err, out)
	}
}
