package nitro

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/link"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// fleet is a controller that runs as a program, with its operator's command line.
type fleet struct {
	folder  string
	cli     string // program
	said    *text
	address string
	key     string // sha256:<hex>
}

// controlled starts a controller that believes this machine's module, and names it in the enclave's configuration.
func (e *enclave) controlled(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{folder: t.TempDir(), cli: compile(t, "raypher"), said: &text{}}
	program := compile(t, "raypher-controller")
	f.write(t, "root.pem", e.Module.RootPEM())
	f.write(t, "ceiling.key.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: ok(x509.MarshalPKIXPublicKey(e.operator.Public()))(t)}))
	f.run(t, program, "keygen", "operator.key")
	f.run(t, f.cli, "ceiling", "keygen", "golden.key")
	controller := exec.Command(program, "--state", "ctl", "--listen", "127.0.0.1:0", "--listen-http", "", "--operator", "operator.key.pub",
		"--golden-key", "golden.key.pub", "--ceiling-key", "ceiling.key.pub", "--nitro-root", "root.pem")
	controller.Dir, controller.Stdout, controller.Stderr = f.folder, f.said, f.said
	controller.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := controller.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		controller.Process.Kill()
		controller.Wait()
		if t.Failed() {
			t.Logf("controller:\n%s", f.said)
		}
	})
	f.address = f.find(t, `msg=serving grpc=(\S+)`)
	e.more = "controller = " + f.address + "\n"
	for _, line := range []string{"controller_key", "controller_result_key"} {
		e.more += f.find(t, `line="(`+line+` = [^"]+)"`) + "\n"
	}
	f.key = f.find(t, `controller_key = (sha256:[0-9a-f]{64})`)
	return f
}

func (f *fleet) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.folder, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// find waits for what the controller says.
func (f *fleet) find(t *testing.T, pattern string) string {
	t.Helper()
	wanted := regexp.MustCompile(pattern)
	for end := time.Now().Add(startLimit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if found := wanted.FindStringSubmatch(f.said.String()); found != nil {
			return found[1]
		}
	}
	t.Fatalf("the controller never said %s:\n%s", pattern, f.said)
	return ""
}

// run runs a program to its good end.
func (f *fleet) run(t *testing.T, program string, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Dir = f.folder
	command.Env = append(os.Environ(), "RAYPHER_CONTROLLER="+f.address, "RAYPHER_CONTROLLER_KEY="+f.key, "RAYPHER_OPERATOR_KEY=operator.key")
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
	return string(out)
}

// measured puts golden measurements in force: the image's, with another PCR2 where it is given.
func (f *fleet) measured(t *testing.T, e *enclave, version uint64, pcr2 [48]byte) {
	t.Helper()
	key := ok(ceiling.ParseKey(ok(os.ReadFile(filepath.Join(f.folder, "golden.key")))(t)))(t)
	now := time.Now().Truncate(time.Second)
	list := &golden.List{Version: version, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Sets: []*golden.Set{{
		Name: "release", Tier: journal.TierNitro, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), PCRs: []golden.Register{
			{Index: 0, Values: [][]byte{e.Measurements.PCR0[:]}}, {Index: 2, Values: [][]byte{pcr2[:]}},
		},
	}}}
	name := fmt.Sprintf("%d.golden", version)
	f.write(t, name, ok(golden.Sign(list, key))(t))
	f.run(t, f.cli, "fleet", "measurements", name)
}

// standing waits until the enclave's standing with its controller is as wanted.
func standing(t *testing.T, l *link.Link, what string, wanted func(*enclavev1.FleetStatus) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	for {
		s, err := l.DescribeFleet(ctx)
		if err == nil && wanted(s) {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: %v, %v", what, s, err)
		}
	}
}

// An enclave in a machine reaches its controller through vsock alone, with TLS that ends in both: it is refused while other measurements
// are in force, attested under its own, and then gets a secret and the controller's counter of leases.
func TestControllerOfAnEnclave(t *testing.T) {
	e := start(t, "", nil)
	f := e.controlled(t)
	caller := ok(link.Prepare(e.keys, func(string) {}))(t)
	f.run(t, f.cli, "fleet", "add", "i-1", "--tier", "nitro", "--caller-key", caller.Hash().String())
	f.measured(t, e, 1, [48]byte{1})
	f.write(t, "value", []byte("a credential"))
	f.run(t, f.cli, "fleet", "secret", "put", "llm/key", "--hosts", "i-*", "--tiers", "nitro", "--file", "value")
	l := e.connect(t)
	standing(t, l, "another image is measured", func(s *enclavev1.FleetStatus) bool {
		return s.GetResult() == "" && strings.Contains(s.GetError(), "golden") && len(s.GetSecrets()) == 0
	})
	f.measured(t, e, 2, e.Measurements.PCR2)
	standing(t, l, "its own image is measured", func(s *enclavev1.FleetStatus) bool {
		return s.GetResult() != "" && s.GetError() == "" && strings.Join(s.GetSecrets(), " ") == "llm/key"
	})
	if out := f.run(t, f.cli, "fleet", "status"); !strings.Contains(out, "affirming") || !strings.Contains(out, "release") {
		t.Errorf("the fleet:\n%s", out)
	}
	grant, err := l.DescribeGrant(t.Context())
	if err != nil || grant.GetAnchorError() != "" || bytes.Equal(grant.GetAnchor(), make([]byte, 32)) {
		t.Errorf("credit: %v, %v", grant, err)
	}
}
