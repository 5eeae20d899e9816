package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/visa"
	"github.com/spf13/cobra"
)

// host is a state folder with a journal: one visa, and three verdicts of two agents under it.
type host struct {
	state string
	log   *journaltest.Log
	visa  string // file
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{state: t.TempDir(), log: journaltest.New(t, journaltest.NewKey(t), nil)}
	h.log.Now = time.Now().Truncate(time.Second)
	store, err := audit.Open(filepath.Join(h.state, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	commit := func(entries ...[]byte) *journaltest.Batch {
		b := h.log.Append(entries...)
		if err := store.Append(&enclavev1.Batch{Epoch: h.log.Epoch[:], FirstIndex: b.First, Entries: b.Entries, SignedHead: b.SignedHead}); err != nil {
			t.Fatal(err)
		}
		return b
	}
	claims := h.log.Claims("a1")
	claims.Audience, claims.Nonce, claims.ID = "https://api.example", []byte("12345678"), bytes.Repeat([]byte{9}, 16)
	granted := commit(h.log.Visa(claims)).Granted(t, 1)
	h.visa = filepath.Join(t.TempDir(), "visa")
	if err := os.WriteFile(h.visa, granted, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, agent := range []string{"a1", "a1", "a2"} {
		v := journal.Verdict{Time: h.log.Now.UnixNano() + int64(i), AgentID: agent, Subject: claims.Subject, Comm: "cat", Decision: journal.Block,
			Layer: "broker", Operation: "open-read", Target: fmt.Sprintf("/secret/\x1b[31m%d", i), Errno: 13, Count: 1}
		if agent == "a1" {
			v.VisaID = claims.ID
		}
		commit(h.log.Verdict(v))
	}
	return h
}

// call runs a command as the CLI does and returns its standard output.
func call(t *testing.T, c *cobra.Command, args ...string) (string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&errs)
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.Execute()
	return out.String(), err
}

func mustCall(t *testing.T, c *cobra.Command, args ...string) string {
	t.Helper()
	out, err := call(t, c, args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out
}

func TestEvidenceFromTheJournalToAnotherMachine(t *testing.T) {
	h := newHost(t)
	table := mustCall(t, evidenceCommand(), "list", "--state-dir", h.state)
	if strings.Count(table, "\n") != 4 || strings.Contains(table, "\x1b") || !strings.Contains(table, `/secret/\x1b[31m2`) {
		t.Errorf("the table:\n%s", table)
	}
	if got := mustCall(t, evidenceCommand(), "list", "--state-dir", h.state, "--agent", "a2"); strings.Count(got, "\n") != 2 {
		t.Errorf("one agent:\n%s", got)
	}
	decoder := json.NewDecoder(strings.NewReader(mustCall(t, evidenceCommand(), "list", "--json", "--state-dir", h.state)))
	var items []listItem
	for decoder.More() {
		var item listItem
		if err := decoder.Decode(&item); err != nil {
			t.Fatal(err)
		}
		items = append(items, item)
	}
	if len(items) != 3 || items[0].Index != 2 || items[0].Epoch != h.log.Epoch.String() || items[0].VisaID != strings.Repeat("09", 16) {
		t.Fatalf("%+v", items)
	}

	key := filepath.Join(t.TempDir(), "enclave.pem")
	if err := os.WriteFile(key, []byte(mustCall(t, evidenceCommand(), "key", "--state-dir", h.state)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"2", h.log.Epoch.String() + ":2", h.log.Epoch.String()[:8] + "/2", strings.ToUpper(h.log.Epoch.String()[:7]) + ":2"} {
		bundle := filepath.Join(t.TempDir(), "bundle")
		mustCall(t, evidenceCommand(), "export", "--state-dir", h.state, name, "-o", bundle)
		out := mustCall(t, evidenceCommand(), "verify", "--allow-software", "--enclave-key", key, bundle)
		if !strings.Contains(out, "block open-read /secret/") || !strings.Contains(out, "(pinned)") || !strings.Contains(out, "visa 0909") {
			t.Errorf("%s:\n%s", name, out)
		}
		if out := mustCall(t, evidenceCommand(), "verify", "--allow-software", bundle); !strings.Contains(out, "not pinned") {
			t.Errorf("%s without a key:\n%s", name, out)
		}
		if out, err := call(t, evidenceCommand(), "verify", "--enclave-key", key, bundle); err == nil || out != "" || !strings.Contains(err.Error(), "tier") {
			t.Errorf("software without leave: %q, %v", out, err)
		}
	}
	for _, name := range []string{"99", "ffffffff:2", ":2", "x:2", "2:", "-1", ""} {
		if _, err := call(t, evidenceCommand(), "export", "--state-dir", h.state, "-o", filepath.Join(t.TempDir(), "x"), "--", name); err == nil {
			t.Errorf("export %q: no error", name)
		}
	}
	if out := mustCall(t, evidenceCommand(), "verify", "--allow-software", "--enclave-key", key, "--journal", h.state); !strings.Contains(out, "every head and the chain of 1 epochs hold") {
		t.Errorf("%s", out)
	}
	folder := t.TempDir()
	names := strings.Fields(mustCall(t, evidenceCommand(), "export", "--all", "--agent", "a1", "--state-dir", h.state, "-o", folder))
	if len(names) != 2 {
		t.Fatalf("%v", names)
	}
	mustCall(t, evidenceCommand(), append([]string{"verify", "--json", "--allow-software"}, names...)...)
	spoiled, err := os.ReadFile(names[1])
	if err != nil {
		t.Fatal(err)
	}
	spoiled[len(spoiled)/2] ^= 4
	if err := os.WriteFile(names[1], spoiled, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := call(t, evidenceCommand(), append([]string{"verify", "--allow-software"}, names...)...); err == nil || out != "" || !strings.Contains(err.Error(), names[1]) {
		t.Errorf("one of two is spoiled: %q, %v", out, err)
	}
}

func TestAnAlteredJournalIsNamed(t *testing.T) {
	h := newHost(t)
	files, err := filepath.Glob(filepath.Join(h.state, "journal", "*.journal"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/3] ^= 1
	if err := os.WriteFile(files[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"list"}, {"key"}, {"export", "2", "-o", "-"}} {
		if out, err := call(t, evidenceCommand(), append(args, "--state-dir", h.state)...); err == nil || out != "" || !strings.Contains(err.Error(), "entry ") {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	if _, err := call(t, evidenceCommand(), "list", "--state-dir", t.TempDir()); err == nil || !strings.Contains(err.Error(), "no journal") {
		t.Errorf("no journal: %v", err)
	}
}

func TestVisaVerifyNamesTheCheck(t *testing.T) {
	h, stranger := newHost(t), newHost(t)
	at := func(d time.Duration) string { return h.log.Now.Add(d).Format(time.RFC3339) }
	good := []string{"--state-dir", h.state, "--allow-software", "--audience", "https://api.example"}
	for name, c := range map[string]struct {
		args []string
		want string // in the error; empty: it holds
	}{
		"holds":            {good, ""},
		"with its nonce":   {append(good, "--nonce", "3132333435363738"), ""},
		"software":         {good[:2], "tier"},
		"another audience": {append(good, "--audience", "https://other.example"), "audience"},
		"expired":          {append(good, "--at", at(301*time.Second)), "expired"},
		"not yet valid":    {append(good, "--at", at(-time.Minute)), "not yet valid"},
		"forgiven":         {append(good, "--at", at(-time.Minute), "--skew", "1m"), ""},
		"another nonce":    {append(good, "--nonce", "00"), "nonce"},
		"bad nonce":        {append(good, "--nonce", "x"), "--nonce"},
		"bad moment":       {append(good, "--at", "noon"), "--at"},
		"no such journal":  {append(good, "--state-dir", stranger.state), "no enclave key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("RAYPHER_RUN_DIR", t.TempDir()) // no daemon
			t.Setenv("RAYPHER_VISA", h.visa)
			out, err := call(t, visaCommand(), append([]string{"verify"}, c.args...)...)
			switch {
			case c.want == "" && (err != nil || !strings.Contains(out, "spiffe://example.org/ns/dev/agent/coder")):
				t.Errorf("%q, %v", out, err)
			case c.want != "" && (err == nil || out != "" || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%q, %v: want an error about %q", out, err, c.want)
			}
		})
	}
	if out := mustCall(t, visaCommand(), "show", h.visa); !strings.Contains(out, "asserted by the parent") {
		t.Error(out)
	}
	var view visa.View
	if err := json.Unmarshal([]byte(mustCall(t, visaCommand(), "show", "--json", h.visa)), &view); err != nil || view.Asserted.AgentID != "a1" {
		t.Errorf("%+v: %v", view, err)
	}
	key := filepath.Join(t.TempDir(), "stranger.pem")
	if err := os.WriteFile(key, []byte(mustCall(t, evidenceCommand(), "key", "--state-dir", stranger.state)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := call(t, visaCommand(), "verify", "--allow-software", "--enclave-key", key, "--audience", "https://api.example", h.visa); err == nil || out != "" || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("a stranger's key: %q, %v", out, err)
	}
}
