package stage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// CLI is the raypher program, used as a person would use it.
type CLI struct {
	Program     string
	Environment []string
}

// Evidence is one entry of `raypher evidence list --json`.
type Evidence struct {
	Epoch     string `json:"epoch"`
	Index     uint64 `json:"index"`
	Decision  string `json:"decision"`
	Layer     string `json:"layer"`
	Operation string `json:"operation"`
	Target    string `json:"target"`
	Count     uint32 `json:"count"`
}

// Name is how the CLI names an entry, with the epoch cut short.
func (e *Evidence) Name() string {
	return fmt.Sprintf("%.8s:%d", e.Epoch, e.Index)
}

// run runs the CLI and returns its standard output. offline takes the network away, loopback too.
func (c *CLI) run(ctx context.Context, offline bool, arguments ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.Program, arguments...)
	cmd.Env = append(os.Environ(), c.Environment...)
	if offline {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("raypher %s: %w: %s%s", strings.Join(arguments, " "), err, cut(errs.String()), cut(out.String()))
	}
	return out.Bytes(), nil
}

// Evidence lists the journal's verdicts from the state folder, with the pair gone.
func (c *CLI) Evidence(ctx context.Context, pair *Pair) ([]Evidence, error) {
	out, err := c.run(ctx, true, "evidence", "list", "--json", "--state-dir", pair.State)
	if err != nil {
		return nil, err
	}
	var list []Evidence
	decoder := json.NewDecoder(bytes.NewReader(out))
	for decoder.More() {
		var entry Evidence
		if err := decoder.Decode(&entry); err != nil {
			return nil, fmt.Errorf("raypher evidence list: %w", err)
		}
		list = append(list, entry)
	}
	return list, nil
}

// prove exports and verifies the evidence of each block, and the agent's visa, without a network and with the pair gone.
// It returns what failed.
func (c *CLI) prove(ctx context.Context, out io.Writer, pair *Pair, home *Home, outcomes []Outcome) (problems []string) {
	fmt.Fprintln(out, "\nProofs, checked offline: the pair has ended, and the CLI runs in an empty network namespace.")
	attempt := func(arguments ...string) bool {
		if _, err := c.run(ctx, true, arguments...); err != nil {
			problems = append(problems, err.Error())
			return false
		}
		return true
	}
	trust, err := c.trust(ctx, pair, home)
	if err != nil {
		return append(problems, err.Error())
	}
	proven, blocks := 0, 0
	for i := range outcomes {
		entry := outcomes[i].Evidence
		if entry == nil {
			continue
		}
		blocks++
		bundle := filepath.Join(home.Root, fmt.Sprintf("evidence-%d.cbor", i+1))
		if attempt("evidence", "export", "--state-dir", pair.State, "-o", bundle, fmt.Sprintf("%s:%d", entry.Epoch, entry.Index)) &&
			attempt(slices.Concat([]string{"evidence", "verify"}, trust, []string{bundle})...) {
			proven++
		}
	}
	fmt.Fprintf(out, "  raypher evidence export, verify: %d of %d bundles hold\n", proven, blocks)
	visa := filepath.Join(home.Work, "visa.cbor")
	if !exists(visa) {
		return problems
	}
	if pair.nitro != nil {
		return append(problems, c.proveNitro(ctx, out, pair, home, visa, trust)...)
	}
	if attempt(slices.Concat([]string{"visa", "verify"}, trust, []string{visa})...) {
		fmt.Fprintln(out, "  raypher visa verify: the agent's visa holds")
	}
	if _, err := c.run(ctx, true, slices.Concat([]string{"visa", "verify"}, trust[1:], []string{visa})...); err == nil {
		problems = append(problems, "a visa of the tier software was accepted without --allow-software")
	} else {
		fmt.Fprintln(out, "  and is refused where the tier software is not allowed")
	}
	return problems
}

// trust returns the flags of a relying party: on tier nitro, root and measurements; on tier software, the enclave's key, which is carried over
// once. Then nothing of the pair's state is needed.
func (c *CLI) trust(ctx context.Context, pair *Pair, home *Home) ([]string, error) {
	if pair.nitro != nil {
		return pair.nitro.trust(home.Root)
	}
	key := filepath.Join(home.Root, "enclave-key.pem")
	text, err := c.run(ctx, true, "evidence", "key", "--state-dir", pair.State)
	if err == nil {
		err = os.WriteFile(key, text, 0o600)
	}
	return []string{"--allow-software", "--enclave-key", key}, err
}
