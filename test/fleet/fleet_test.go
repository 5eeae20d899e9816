package fleet

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/test/isolated"
)

// patience bounds each wait.
const patience = 60 * time.Second

const controllerAddress = "127.0.0.1:7443"

// process is a program that runs until it is stopped, and what it said.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	mu    sync.Mutex
	log   bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func start(t *testing.T, program string, arguments ...string) *process {
	t.Helper()
	p := &process{ended: make(chan struct{}), cmd: exec.Command(filepath.Join(programs, program), arguments...)}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", program, p.said())
		}
	})
	return p
}

// stop ends it and waits; twice is once.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	<-p.ended
	late.Stop()
}

// host is a machine of the fleet, with its controller and their operator.
type host struct {
	t          *testing.T
	dir        string
	paths      instance.Paths
	controller *process
	parent     *process
	key        string // of the controller, sha256:<hex>
	name, tier string
	flags      []string // more of the controller's
}

// cli runs the command line to its end.
func (h *host) cli(program string, arguments ...string) (string, error) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), filepath.Join(programs, program), arguments...)
	cmd.Dir = h.dir
	cmd.Env = []string{
		"HOME=" + h.dir, "PATH=/usr/bin:/bin", "RAYPHER_RUN_DIR=" + h.paths.Run, "RAYPHER_CONTROLLER=" + controllerAddress,
		"RAYPHER_CONTROLLER_KEY=" + h.key, "RAYPHER_OPERATOR_KEY=" + filepath.Join(h.dir, "operator.key"),
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(arguments, " "), err, errs.String())
	}
	return out.String(), nil
}

func (h *host) must(program string, arguments ...string) string {
	h.t.Helper()
	out, err := h.cli(program, arguments...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *host) file(name, text string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// eventually waits until a status has all words, and returns it.
func (h *host) eventually(words ...string) string {
	h.t.Helper()
	var out string
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		out, err = h.cli("raypher-cli", "status")
		missing := err != nil
		for _, word := range words {
			missing = missing || !regexp.MustCompile(word).MatchString(out)
		}
		if !missing {
			return out
		}
		select {
		case <-h.parent.ended:
			h.t.Fatal("raypherd ended")
		default:
		}
	}
	h.t.Fatalf("waited %s for a status with %q: %v\n%s", patience, words, err, out)
	return ""
}

func (h *host) startController(lifetime string) {
	h.t.Helper()
	h.controller = start(h.t, "raypher-controller", append([]string{"--listen", controllerAddress, "--listen-http", "", "--state", filepath.Join(h.dir, "controller"),
		"--operator", filepath.Join(h.dir, "operator.key.pub"), "--ceiling-key", filepath.Join(h.dir, "ceiling.key.pub"),
		"--result-lifetime", lifetime}, h.flags...)...)
	for end := time.Now().Add(patience); !strings.Contains(h.controller.said(), "serving"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("the controller does not serve:\n%s", h.controller.said())
		}
	}
}

// line is what the controller says that a start configuration needs.
func (h *host) line(key string) string {
	h.t.Helper()
	found := regexp.MustCompile(`line="(` + key + ` = [^"]+)"`).FindStringSubmatch(h.controller.said())
	if found == nil {
		h.t.Fatalf("no line %s:\n%s", key, h.controller.said())
	}
	return found[1]
}

// newHost starts a controller, adds this host to its fleet, and writes the start configuration. raypherd is not started yet.
func newHost(t *testing.T, lifetime string) *host {
	t.Helper()
	h := newFolder(t)
	h.name, h.tier, h.flags = "rack-7", "software", []string{"--allow-software"}
	h.join(lifetime)
	return h
}

// newFolder is a host with nothing but its folder and the keys of its operator.
func newFolder(t *testing.T) *host {
	t.Helper()
	isolated.NeedRoot(t)
	dir, err := os.MkdirTemp("", "raypher-fleet-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir}
	if h.paths, err = instance.At(filepath.Join(dir, "run"), filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	h.must("raypher-controller", "keygen", filepath.Join(dir, "operator.key"))
	return h
}

// join starts the controller and makes the host one of its fleet.
func (h *host) join(lifetime string) {
	h.t.Helper()
	operator := h.must("raypher-cli", "ceiling", "keygen", "ceiling.key")
	h.startController(lifetime)
	h.key = strings.TrimPrefix(h.line("controller_key"), "controller_key = ")
	caller := strings.TrimSpace(h.must("raypherd", "--caller-key", "--run-dir", h.paths.Run, "--state-dir", h.paths.State))
	if err := os.MkdirAll(h.paths.Keys, 0o700); err != nil {
		h.t.Fatal(err)
	}
	conf := strings.Join([]string{
		caller, regexp.MustCompile(`operator_key = \S+`).FindString(operator), "controller = " + controllerAddress,
		h.line("controller_key"), h.line("controller_result_key"), "",
	}, "\n")
	if err := os.WriteFile(filepath.Join(h.paths.Keys, "ibev.conf"), []byte(conf), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.must("raypher-cli", "fleet", "add", h.name, "--tier", h.tier, "--caller-key", strings.TrimPrefix(caller, "caller_key = "))
}

func (h *host) startParent(flags ...string) {
	h.t.Helper()
	h.parent = start(h.t, "raypherd", append([]string{"--run-dir", h.paths.Run, "--state-dir", h.paths.State, "--listen", "", "--gateway", ""}, flags...)...)
	h.eventually("reachable")
}

// releaseCeiling releases a ceiling that requires attestation.
func (h *host) releaseCeiling(version int) {
	h.t.Helper()
	h.file("ceiling.yaml", fmt.Sprintf(`version: %d
trust_domain: raypher.local
require_attestation: true
grants:
  - namespace: "*"
    agents: ["*"]
    permit:
      filesystem: {read: ["/**"], write: ["/**"], exec: ["/**"]}
`, version))
	h.must("raypher-cli", "ceiling", "sign", "--key", "ceiling.key", "ceiling.yaml", "-o", "ceiling.cose")
	h.must("raypher-cli", "fleet", "release", "ceiling", "--hosts", "*", "ceiling.cose")
}

// TestHostOfAFleet: a host that knows its controller, and nothing else, gets attested, its ceiling, a secret and a policy from it; what it
// grants ends with the attestation when the controller goes, and comes back with it.
func TestHostOfAFleet(t *testing.T) {
	h := newHost(t, "9s")
	h.releaseCeiling(1)
	h.file("policy.yaml", `namespace: dev
filesystem:
  read: ["/**"]
  write: ["/dev/null"]
  exec: ["/**"]
`)
	h.must("raypher-cli", "policy", "release", "--key", "ceiling.key", "--name", "coder", "--version", "3", "-o", "policy.release", "policy.yaml")
	h.must("raypher-cli", "fleet", "release", "policy", "--hosts", "rack-*", "policy.release")
	const value = "sk-a-value-that-nobody-is-told"
	h.must("raypher-cli", "fleet", "secret", "put", "llm/key", "--hosts", "rack-7", "--tiers", "software", "--file", h.file("secret", value))
	h.startParent()
	status := h.eventually("result in force until", `ceiling +version 1`, `secrets +llm/key`, `fleet:coder version 3`, "agents begin with them until")
	if strings.Contains(status+h.parent.said()+h.controller.said(), value) {
		t.Error("the secret's value was told")
	}
	if out := h.must("raypher-cli", "fleet", "secret", "list"); !strings.Contains(out, "rack-7") {
		t.Errorf("the controller does not know that the secret arrived:\n%s", out)
	}
	if out := h.must("raypher-cli", "attest", "result"); !strings.Contains(out, "spiffe://raypher.local/host/rack-7") {
		t.Errorf("the result:\n%s", out)
	}
	if out := h.must("raypher-cli", "fleet", "status"); !strings.Contains(out, "affirming") {
		t.Errorf("the fleet:\n%s", out)
	}
	run := func() (string, error) {
		return h.cli("raypher", "run", "--policy", "fleet:coder", "--", "/bin/echo", "granted")
	}
	if out, err := run(); err != nil || out != "granted\n" {
		t.Errorf("attested: %q, %v", out, err)
	}
	if _, err := h.cli("raypher", "run", "--policy", "fleet:other", "--", "/bin/true"); err == nil || !strings.Contains(err.Error(), "not among those for this host") {
		t.Errorf("a policy that is not released: %v", err)
	}
	h.controller.stop()
	h.eventually("no result in force")
	if _, err := run(); err == nil || !strings.Contains(err.Error(), "its ceiling requires it") || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("with the controller away, after the result's end: %v", err)
	}
	h.startController("9s")
	h.eventually("result in force until")
	if out, err := run(); err != nil || out != "granted\n" {
		t.Errorf("attested again: %q, %v", out, err)
	}
}

// TestOtherController: whoever stands at the controller's address with another key gets nothing, and gives nothing.
func TestOtherController(t *testing.T) {
	h := newHost(t, "9s")
	h.controller.stop()
	if err := os.Remove(filepath.Join(h.dir, "controller", "tls.key")); err != nil {
		t.Fatal(err)
	}
	h.startController("9s") // makes another TLS key, and still holds the key of results
	h.startParent()
	h.eventually("no result in force", "no controller_key")
	h.key = strings.TrimPrefix(h.line("controller_key"), "controller_key = ")
	if out := h.must("raypher-cli", "fleet", "status"); strings.Contains(out, "affirming") {
		t.Errorf("the fleet:\n%s", out)
	}
}

// TestLeasesOutliveTheEnclave: the counter of leases is the controller's, so an enclave whose state folder was set back finds it where it was.
func TestLeasesOutliveTheEnclave(t *testing.T) {
	h := newHost(t, "1m")
	h.startParent()
	h.eventually("result in force until")
	anchor := func() string {
		t.Helper()
		out := h.must("raypher-cli", "grant", "status")
		found := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(out)
		if found == "" {
			t.Fatalf("no anchor:\n%s", out)
		}
		return found
	}
	first := anchor()
	install := func(version string) error {
		h.must("raypher-cli", "grant", "sign", "--version", version, "--cap", "1000visas", "--anchor", first, "--baseline", "0",
			"--key", "ceiling.key", "--out", "grant-"+version)
		_, err := h.cli("raypher-cli", "grant", "install", "grant-"+version)
		return err
	}
	for _, version := range []string{"1", "2"} {
		if err := install(version); err != nil {
			t.Fatal(err)
		}
	}
	h.parent.stop() // and its enclave with it
	for _, name := range []string{lease.GrantFile, lease.CounterFile} {
		err := os.Remove(filepath.Join(h.paths.EnclaveState, name))
		if (err == nil) != (name == lease.GrantFile) {
			t.Errorf("%s: %v; the counter is not kept here", name, err)
		}
	}
	h.startParent()
	h.eventually("result in force until")
	if again := anchor(); again != first {
		t.Errorf("the counter is %s, before %s", again, first)
	}
	if _, err := h.cli("raypher-cli", "grant", "install", "grant-1"); err == nil || !strings.Contains(err.Error(), "version 2 was in force before") {
		t.Errorf("an older grant after the state was set back: %v", err)
	}
	if _, err := h.cli("raypher-cli", "grant", "install", "grant-2"); err != nil {
		t.Errorf("the newest one: %v", err)
	}
}

// TestTPM: a host with a TPM is enrolled on the way to its first result, once, and is attested against golden
// measurements.
func TestTPM(t *testing.T) {
	h := newFolder(t)
	ca := tpmtest.NewCA(t)
	chip := tpmtest.Start(t, ca.Make(t)).Socket
	h.must("raypher-cli", "ceiling", "keygen", "golden.key")
	h.must("raypher-cli", "attest", "golden", "add", "fleet.yaml", "--name", "rack", "--tpm-device", chip, "--pcrs", "0,7")
	h.must("raypher-cli", "attest", "golden", "sign", "fleet.yaml", "--key", "golden.key")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	h.name, h.tier = name, "tpm"
	h.flags = []string{"--golden-key", filepath.Join(h.dir, "golden.key.pub"), "--tpm-roots", ca.Roots}
	h.join("30s")
	h.must("raypher-cli", "fleet", "measurements", "fleet.golden")
	h.startParent("--tpm-device", chip)
	h.eventually("reachable, tier tpm", "result in force until")
	if said := h.parent.said(); !strings.Contains(said, "this TPM is enrolled") {
		t.Errorf("no enrolment:\n%s", said)
	}
	if out := h.must("raypher-cli", "attest", "result"); !strings.Contains(out, "rack") || !strings.Contains(out, "tpm") {
		t.Errorf("the result:\n%s", out)
	}
	h.parent.stop()
	h.startParent("--tpm-device", chip)
	h.eventually("result in force until")
	if said := h.parent.said(); strings.Contains(said, "this TPM is enrolled") {
		t.Errorf("enrolled again:\n%s", said)
	}
}
