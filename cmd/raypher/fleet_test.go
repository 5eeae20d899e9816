package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	controller "github.com/raypher/raypher/controller/daemon"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/startconf"
)

// fleetOf is a controller in this process, and the flags with which its operator asks it.
func fleetOf(t *testing.T) (flags []string, goldenKey string) {
	t.Helper()
	dir := t.TempDir()
	hash := func(name string) startconf.KeyHash {
		key, _, err := peer.OpenKey(filepath.Join(dir, name), true)
		if err != nil {
			t.Fatal(err)
		}
		_, hash, err := peer.Certificate(key, "test")
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	goldenKey = filepath.Join(dir, "golden.key")
	if out, err := fleetRun("ceiling", "keygen", goldenKey); err != nil {
		t.Fatal(out, err)
	}
	public, err := readOperatorKey(goldenKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan net.Addr, 1)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	o := controller.Options{
		Listen: "127.0.0.1:0", State: dir, Operators: []startconf.KeyHash{hash("operator.key")}, GoldenKeys: [][]byte{public},
		TrustDomain: startconf.DefaultTrustDomain, Log: slog.New(slog.DiscardHandler), Ready: func(rpc, _ net.Addr) { served <- rpc },
	}
	go func() { ended <- controller.Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case address := <-served:
		return []string{"--controller", address.String(), "--controller-key", hash(controller.TLSKeyFile).String(), "--key", filepath.Join(dir, "operator.key")}, goldenKey
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("the controller does not serve")
	}
	return nil, ""
}

// fleetRun runs a command line of raypher in this process.
func fleetRun(args ...string) (string, error) {
	var out bytes.Buffer
	c := commands(args[:1])[0]
	c.SetArgs(args[1:])
	c.SetOut(&out)
	c.SetErr(&out)
	c.SilenceUsage, c.SilenceErrors = true, true
	err := c.ExecuteContext(context.Background())
	return out.String(), err
}

func TestFleet(t *testing.T) {
	flags, goldenKey := fleetOf(t)
	caller := startconf.KeyHash(sha256.Sum256([]byte("parent"))).String()
	list := filepath.Join(t.TempDir(), "fleet.yaml")
	text := "version: 1\nnot_after: \"2099-01-01T00:00:00Z\"\nsets:\n  - {name: rack, tier: tpm, bank: sha256, pcrs: {PCR7: \"" + strings.Repeat("00", 32) + "\"}}\n"
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := fleetRun("attest", "golden", "sign", list, "--key", goldenKey); err != nil {
		t.Fatal(out, err)
	}
	signed := strings.TrimSuffix(list, ".yaml") + ".golden"
	stranger, foreign := goldenKey+".stranger", list+".foreign"
	for _, line := range [][]string{{"ceiling", "keygen", stranger}, {"attest", "golden", "sign", list, "--key", stranger, "--out", foreign}} {
		if out, err := fleetRun(line...); err != nil {
			t.Fatal(out, err)
		}
	}
	for _, c := range []struct {
		name string
		args []string
		out  string // part of the output, or of the error
		fail bool
	}{
		{"no hosts", []string{"status"}, "raypher fleet add", false},
		{"add", []string{"add", "rack-7", "--tier", "tpm", "--caller-key", caller}, "rack-7: tier tpm, bound by its first good evidence", false},
		{"add again", []string{"add", "rack-7", "--tier", "tpm", "--caller-key", caller}, "rack-7: tier tpm", false},
		{"add with another tier", []string{"add", "rack-7", "--tier", "nitro", "--caller-key", caller}, "--reset", true},
		{"add with the key of another", []string{"add", "rack-8", "--tier", "tpm", "--caller-key", caller}, "that of host rack-7", true},
		{"reset of a host that is not there", []string{"add", "rack-9", "--tier", "tpm", "--caller-key", caller, "--reset"}, "leave --reset away", true},
		{"reset", []string{"add", "rack-7", "--tier", "nitro", "--caller-key", caller, "--reset"}, "rack-7: tier nitro", false},
		{"software", []string{"add", "rack-8", "--tier", "software", "--caller-key", caller}, "--allow-software", true},
		{"a name that is none", []string{"add", "rack 7", "--tier", "tpm", "--caller-key", caller}, "name of a host", true},
		{"a key that is none", []string{"add", "rack-8", "--tier", "tpm", "--caller-key", "x"}, "raypherd --caller-key", true},
		{"status", []string{"status"}, "rack-7  nitro  none     never", false},
		{"measurements", []string{"measurements", signed}, "version 1 is in force", false},
		{"measurements without a signature", []string{"measurements", list}, "raypher attest golden sign", true},
		{"measurements signed by another", []string{"measurements", foreign}, "key of a --golden-key", true},
		{"remove", []string{"remove", "rack-7"}, "rack-7 removed", false},
		{"remove again", []string{"remove", "rack-7"}, "raypher fleet status", true},
		{"audit", []string{"audit"}, "host.remove", false},
		{"another controller's key", []string{"status", "--controller-key", caller}, "compare --controller-key", true},
		{"an address without a port", []string{"status", "--controller", "localhost"}, "host:port", true},
		{"nobody there", []string{"status", "--controller", "127.0.0.1:1"}, "is it running", true},
		{"no key", []string{"status", "--key", ""}, "raypher-controller keygen", true},
		{"the public half of a key", []string{"status", "--key", goldenKey + ".pub"}, "name the file beside it, without .pub", true},
		{"a stranger's key", []string{"status", "--key", goldenKey + ".other"}, "--operator", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.HasSuffix(c.args[len(c.args)-1], ".other") {
				if _, _, err := peer.OpenKey(c.args[len(c.args)-1], true); err != nil {
					t.Fatal(err)
				}
			}
			out, err := fleetRun(append(append([]string{"fleet"}, flags...), c.args...)...)
			if err != nil {
				out = err.Error()
			}
			if (err != nil) != c.fail || !strings.Contains(out, c.out) {
				t.Errorf("%s %v", out, err)
			}
		})
	}
	out, err := fleetRun(append([]string{"fleet", "audit", "--json"}, flags...)...)
	var audit []entryJSON
	if err != nil || json.Unmarshal([]byte(out), &audit) != nil || len(audit) != 4 || audit[0].Action != "host.add" || audit[0].Number != 1 || time.Since(audit[0].Time) > time.Hour {
		t.Errorf("%s %v", out, err)
	}
	if out, err := fleetRun(append([]string{"fleet", "status", "--json"}, flags...)...); err != nil || out != "[]\n" { // the host was removed
		t.Errorf("%q %v", out, err)
	}
}
