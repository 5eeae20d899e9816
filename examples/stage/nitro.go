package stage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bootPatience is how long an enclave's machine may take until it serves; it is emulated.
const bootPatience = 3 * time.Minute

// Nitro is an enclave of tier nitro in the laboratory (scripts/nitro-lab): fresh, as it takes its start configuration once.
type Nitro struct {
	Folder  string // of the laboratory: the machine's socket, its test root, and the image's measurements
	Ceiling string // in YAML, which the demonstration signs and installs
}

func (n *Nitro) root() string         { return filepath.Join(n.Folder, "test-root.pem") }
func (n *Nitro) measurements() string { return filepath.Join(n.Folder, "measurements.json") }

// parentFlags are those of raypherd.
func (n *Nitro) parentFlags() []string {
	return []string{
		"--enclave-vsock-uds", filepath.Join(n.Folder, "vsock"), "--nitro-enclave", "--nitro-root", n.root(), "--enclave-measurements", n.measurements(),
	}
}

// openNitro starts raypherd with the enclave in the laboratory, which gets an operator and its ceiling, all by the programs that a person has.
func (p *Pair) openNitro(ctx context.Context) error {
	line, err := p.callerLine(ctx)
	if err != nil {
		return err
	}
	cli := p.cli()
	key, bundle := filepath.Join(p.State, "operator.key"), filepath.Join(p.State, "ceiling.cose")
	operator, err := cli.run(ctx, false, "ceiling", "keygen", key)
	if err != nil {
		return err
	}
	root, err := os.ReadFile(p.nitro.root())
	if err != nil {
		return err
	}
	block, _ := pem.Decode(root)
	if block == nil {
		return fmt.Errorf("%s: no certificate", p.nitro.root())
	}
	// So that an enclave that is started anew would follow this one's journal.
	configuration := fmt.Appendf(bytes.Join([][]byte{line, operator}, nil), "nitro_root = sha256:%x\n", sha256.Sum256(block.Bytes))
	if err := os.WriteFile(filepath.Join(p.State, "keys", "ibev.conf"), configuration, 0o644); err != nil {
		return err
	}
	if _, err := cli.run(ctx, false, "ceiling", "sign", "--key", key, "--out", bundle, p.nitro.Ceiling); err != nil {
		return err
	}
	if err := p.openParent(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	for {
		_, err := cli.run(ctx, false, "ceiling", "install", bundle)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the enclave does not take its ceiling: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// trust writes what a relying party checks evidence against, a list of golden measurements with those of the image, and returns the
// flags that name it and the test root.
func (n *Nitro) trust(folder string) ([]string, error) {
	text, err := os.ReadFile(n.measurements())
	if err != nil {
		return nil, err
	}
	var measured map[string]string
	if err := json.Unmarshal(text, &measured); err != nil {
		return nil, fmt.Errorf("%s: %w", n.measurements(), err)
	}
	var list strings.Builder
	fmt.Fprintf(&list, "version: 1\nnot_after: %q\nsets:\n  - name: \"the laboratory's image\"\n    tier: nitro\n    bank: sha384\n    pcrs:\n", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	for _, name := range []string{"PCR0", "PCR1", "PCR2"} {
		fmt.Fprintf(&list, "      %s: %q\n", name, measured[name])
	}
	file := filepath.Join(folder, "golden.yaml")
	return []string{"--root", n.root(), "--golden", file, "--golden-unsigned"}, os.WriteFile(file, []byte(list.String()), 0o600)
}

// proveNitro verifies the agent's visa down to the root and the measurements, and that the root is believed by nobody who was not told.
func (c *CLI) proveNitro(ctx context.Context, out io.Writer, pair *Pair, home *Home, visa string, trust []string) (problems []string) {
	text, err := c.run(ctx, true, "visa", "show", "--json", visa)
	var shown struct {
		Tier  string `json:"tier"`
		Epoch string `json:"epoch"`
	}
	if err == nil {
		err = json.Unmarshal(text, &shown)
	}
	if err != nil {
		return []string{err.Error()}
	}
	if shown.Tier != "nitro" {
		problems = append(problems, fmt.Sprintf("the visa is of tier %q", shown.Tier))
	}
	bundle := filepath.Join(home.Root, "epoch.cbor")
	if _, err := c.run(ctx, true, "evidence", "export", "--state-dir", pair.State, "-o", bundle, shown.Epoch+":0"); err != nil {
		return append(problems, err.Error())
	}
	verify := func(trust []string) error {
		_, err := c.run(ctx, true, slices.Concat([]string{"visa", "verify", "--evidence", bundle}, trust, []string{visa})...)
		return err
	}
	if err := verify(trust); err != nil {
		problems = append(problems, err.Error())
	} else {
		fmt.Fprintln(out, "  raypher visa verify: the agent's visa, of tier nitro, holds under the TEST ROOT, for an enclave of the measured image")
	}
	if err := verify(trust[2:]); err == nil || !strings.Contains(err.Error(), "root: cabundle begins with") {
		problems = append(problems, fmt.Sprintf("a visa under the test root, by the AWS root: %v", err))
	} else {
		fmt.Fprintln(out, "  and is refused where nobody named the test root")
	}
	return problems
}
