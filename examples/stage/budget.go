package stage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/examples/scripted"
	"github.com/raypher/raypher/test/provider"
)

// Budget is a demonstration of money: an agent under the guard whose model charges for each message, with a budget that ends in the middle
// of their conversation, and then with one that does not.
type Budget struct {
	Title    string
	Programs string // folder with raypher, raypherd and raypher-enclave
	Folder   string // with policy.yaml, and conversation.json, the script
	Name     string // of the agent
	Small    string // dollars of the run that ends early
	Large    string // of the one that does not

	Furnish func(*Home) (undo func() error, err error)
	Command func(*Home) []string
}

// The key at the provider, which nobody but the enclave and the provider may see, and what a model costs there: a dollar and four for a
// million tokens.
const providerKey = "sk-only-the-enclave-and-the-provider-know-this"

var demoRates = &prices.Rates{Band: prices.Band{Input: 1_000_000, Output: 4_000_000}, Context: 200_000, MaxOutput: 2_000}

// control is the cost control: the provider on loopback, whose authority is the test's.
const control = `version: 2
time_zone: UTC
monthly_budget_usd: 5
providers:
  openai:
    kind: openai-compatible
    base_url: https://%s/v1
    key: house
    models: {scripted: {input: 1, output: 4, context: 200000, max_output: 2000}}
    ca: |
%s`

// Perform plays it and reports on out. Whatever is charged beyond a budget, or not counted as it was charged, is an error.
func (b *Budget) Perform(out io.Writer) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Fprintf(out, "\n== %s ==\n", b.Title)
	home, err := NewHome()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	undo, err := b.Furnish(home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	pair, err := openPair(ctx, b.Programs, home, nil)
	if err != nil {
		return err
	}
	defer pair.Close()
	model, leave, err := b.provide(ctx, pair, home)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, pair.Log())
	}
	defer leave()
	problems, err := b.converse(ctx, out, pair, home, model)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, pair.Log())
	}
	for _, problem := range problems {
		fmt.Fprintln(out, "FAILED:", problem)
	}
	if len(problems) > 0 {
		return ErrReported
	}
	return nil
}

// charging is a provider whose model follows a script that can be begun again.
type charging struct {
	*provider.Provider
	script *scripted.Script
	model  *scripted.Server
}

// provide starts the provider, and gives the enclave its key and a cost control.
func (b *Budget) provide(ctx context.Context, pair *Pair, home *Home) (c *charging, leave func(), err error) {
	c = new(charging)
	if c.script, err = scripted.Load(filepath.Join(b.Folder, "conversation.json"), map[string]string{"Home": home.Dir}); err != nil {
		return nil, nil, err
	}
	c.Provider, err = provider.New(provider.Options{
		Key: providerKey, Names: []string{"127.0.0.1"},
		Rates: func(model string) (*prices.Rates, bool) { return demoRates, model == "scripted" },
		Reply: func(turn *scripted.Turn) (scripted.Reply, provider.Fault) {
			reply := c.model.Reply(turn)
			reply.Usage = nil // by what it got and said
			return reply, ""
		},
	})
	if err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = c.Serve(listener) // until the listener is closed
	}()
	leave = func() { listener.Close(); <-served }
	if err := b.pay(ctx, pair, home, fmt.Sprintf(control, listener.Addr(), indent(c.RootPEM()))); err != nil {
		leave()
		return nil, nil, err
	}
	return c, leave, nil
}

func indent(pem []byte) string {
	var out strings.Builder
	for line := range strings.Lines(string(pem)) {
		out.WriteString("      " + line)
	}
	return out.String()
}

// pay puts a cost control in force, and gives the enclave the key, as an operator does.
func (b *Budget) pay(ctx context.Context, pair *Pair, home *Home, control string) error {
	path := filepath.Join(home.Root, "cost_control.yaml")
	if err := os.WriteFile(path, []byte(control), 0o644); err != nil {
		return err
	}
	var operator string // the key that an enclave in development makes for itself
	err := filepath.WalkDir(pair.State, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "operator.key" {
			operator = path
		}
		return err
	})
	if err != nil {
		return err
	}
	cli := pair.cli()
	if _, err := cli.run(ctx, false, "spend", "control", "--key", operator, path); err != nil {
		return err
	}
	add := exec.CommandContext(ctx, cli.Program, "keys", "add", "house", "--key", operator)
	add.Env, add.Stdin = append(os.Environ(), cli.Environment...), strings.NewReader(providerKey+"\n")
	if said, err := add.CombinedOutput(); err != nil {
		return fmt.Errorf("raypher keys add: %w: %s", err, said)
	}
	return nil
}

// converse has the agent work twice, and returns what was not as it must be.
func (b *Budget) converse(ctx context.Context, out io.Writer, pair *Pair, home *Home, c *charging) (problems []string, err error) {
	check := func(ok bool, format string, arguments ...any) {
		if !ok {
			problems = append(problems, fmt.Sprintf(format, arguments...))
		}
	}
	var before cost.Amount
	for _, act := range []struct {
		dollars string
		ends    bool
	}{{b.Small, false}, {b.Large, true}} {
		c.model = scripted.NewServer(c.script)
		fmt.Fprintf(out, "\nThe model charges for each message; this run may spend %s dollars.\n\n", act.dollars)
		said, failed := b.run(ctx, out, pair, home, c.script.Task, act.dollars)
		charged := c.Account().Charged - before
		before += charged
		most, err := cost.ParseAmount(act.dollars)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "\n  The provider charged %s of %s dollars, for %d of %d steps.\n", charged, act.dollars, len(c.model.Results()), len(c.script.Steps))
		check(charged <= most && charged > 0, "%s was charged of a budget of %s", charged, most)
		check(c.model.Done() == act.ends && (failed == nil) == act.ends, "with %s dollars the task came to its end: %v, %v", act.dollars, c.model.Done(), failed)
		check(act.ends || strings.Contains(said, "402") && strings.Contains(said, "raypher: "), "the agent was not told why it has to end: %s", cut(said))
		check(!strings.Contains(said, providerKey), "the agent has seen the provider's key")
	}
	spent, err := b.spent(ctx, out, pair)
	if err != nil {
		return nil, err
	}
	check(spent == before, "%s counts as spent, %s was charged", spent, before)
	if len(problems) == 0 {
		fmt.Fprintf(out, "\nNo budget was passed, and what counts as spent is what was charged: %s dollars.\n", spent)
	}
	return problems, nil
}

// run runs the agent with a budget, and returns what it said.
func (b *Budget) run(ctx context.Context, out io.Writer, pair *Pair, home *Home, task, dollars string) (said string, failed error) {
	cli := pair.cli()
	command := append([]string{"run", "--policy", filepath.Join(b.Folder, "policy.yaml"), "--name", b.Name, "--budget", dollars, "--"}, b.Command(home)...)
	cmd := exec.CommandContext(ctx, cli.Program, append(command, task)...)
	cmd.Dir = home.Work
	cmd.Env = append([]string{"HOME=" + home.Dir, "PATH=/usr/local/bin:/usr/bin:/bin", "TERM=dumb", "OPENAI_API_KEY=sk-of-the-caller"}, cli.Environment...)
	var log bytes.Buffer
	cmd.Stdout = io.MultiWriter(&log, prefixed(out, "  "))
	cmd.Stderr = cmd.Stdout
	failed = cmd.Run()
	return log.String(), failed
}

// spent is what counts against the host's budget, as a person is told.
func (b *Budget) spent(ctx context.Context, out io.Writer, pair *Pair) (cost.Amount, error) {
	cli := pair.cli()
	text, err := cli.run(ctx, false, "spend", "show")
	if err != nil {
		return 0, err
	}
	fmt.Fprintln(out, "\n  $ raypher spend show")
	if _, err := prefixed(out, "  ").Write(text); err != nil {
		return 0, err
	}
	if text, err = cli.run(ctx, false, "spend", "show", "--json"); err != nil {
		return 0, err
	}
	return hostSpent(text)
}

func hostSpent(text []byte) (cost.Amount, error) {
	var show struct {
		Accounts []struct {
			Level string `json:"level"`
			Spent string `json:"spent_usd"`
		} `json:"accounts"`
	}
	if err := json.Unmarshal(text, &show); err != nil {
		return 0, fmt.Errorf("raypher spend show: %w", err)
	}
	for _, a := range show.Accounts {
		if a.Level == "host" {
			return cost.ParseAmount(a.Spent)
		}
	}
	return 0, errors.New("raypher spend show: no account of the host")
}
