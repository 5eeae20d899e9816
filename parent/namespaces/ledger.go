package namespaces

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"github.com/raypher/raypher/policy"
)

// ErrNoRoom says that an agent does not fit into what its namespace has left.
var ErrNoRoom = errors.New("no room")

// shown is how many agents a refusal names.
const shown = 8

// Share is what one agent may use of its namespace at most; nil: it has no limit of its own.
type Share struct {
	Namespace string
	Name      string // of the agent, for people
	MemoryMB  *uint64
	Processes *uint64
	FDs       *uint64
}

// ShareOf is the share of an agent that was granted a permit. max_fds of a policy is of each process, so the agent's share is that
// many for each process that it may have; processes include threads, which share their files or have copies.
func ShareOf(namespace, name string, permit *policy.Policy) Share {
	s := Share{Namespace: namespace, Name: name}
	r := permit.Resources
	if r == nil {
		return s
	}
	s.MemoryMB, s.Processes = r.MaxMemoryMB, r.MaxProcesses
	if r.MaxFDs != nil && r.MaxProcesses != nil {
		over, product := bits.Mul64(*r.MaxFDs, *r.MaxProcesses)
		if over != 0 {
			product = math.MaxUint64
		}
		s.FDs = &product
	}
	return s
}

// Ledger is what the agents of one raypherd have of their namespaces. Its methods may be called from several goroutines.
type Ledger struct {
	mu     sync.Mutex
	file   *File
	shares map[string]Share // by agent
}

// NewLedger returns a ledger without agents.
func NewLedger(f *File) *Ledger { return &Ledger{file: f, shares: map[string]Share{}} }

// Follow takes other limits for what is claimed from now on. Agents that run keep their shares, whether these fit or not.
func (l *Ledger) Follow(f *File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file = f
}

// Claim gives an agent its share, until Release, or says why there is no room for it: an error that wraps ErrNoRoom. Of two that
// claim the last share at once, one gets it.
func (l *Ledger) Claim(agent string, s Share) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fits(s); err != nil {
		return err
	}
	l.shares[agent] = s
	return nil
}

// Room says whether there is room now for what an agent asks for, before anything is granted. What it asks without a limit it may be
// granted with any: it counts as the least. Claim looks exactly.
func (l *Ledger) Room(s Share) error {
	for _, part := range []**uint64{&s.MemoryMB, &s.Processes, &s.FDs} {
		if *part == nil {
			*part = &one
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fits(s)
}

// one is the least that an agent takes of anything.
var one uint64 = 1

// fits says whether a share can be given; mu is held.
func (l *Ledger) fits(s Share) error {
	u := l.use(s.Namespace)
	var short []string
	if left, limited := u.Agents.Left(); limited && left == 0 {
		short = append(short, fmt.Sprintf("max_agents: %d of %d run", u.Agents.Used, *u.Agents.Limit))
	}
	for _, r := range u.resources() {
		asked, hint := r.of(s), ""
		if r.name == "max_fds" {
			hint = " (max_fds for each of max_processes)"
		}
		switch left, limited := r.amount.Left(); {
		case !limited:
		case left == 0:
			short = append(short, fmt.Sprintf("%s: 0 of %d are left", r.name, *r.amount.Limit))
		case asked == nil:
			short = append(short, fmt.Sprintf("%s: the agent has no limit of its own%s, and %d of %d are left", r.name, hint, left, *r.amount.Limit))
		case *asked > left:
			short = append(short, fmt.Sprintf("%s: the agent may use %d%s, and %d of %d are left", r.name, *asked, hint, left, *r.amount.Limit))
		}
	}
	if short == nil {
		return nil
	}
	return fmt.Errorf("%w in namespace %s (%s): %s; %s: write limits that fit into the policy's resources, stop an agent with `raypher agents stop`, or raise the namespace's",
		ErrNoRoom, s.Namespace, l.file.name, strings.Join(short, "; "), l.holders(u))
}

// Keep notes the share of an agent that runs already, whether it fits or not.
func (l *Ledger) Keep(agent string, s Share) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shares[agent] = s
}

// Release gives back the share of an agent of which nothing is left. One that has none is no error.
func (l *Ledger) Release(agent string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.shares, agent)
}

// Amount is how much of one thing a namespace has given to its agents.
type Amount struct {
	Used    uint64  // by those with a limit of their own
	Limit   *uint64 // nil: none
	Endless bool    // an agent without a limit of its own runs: it may take all
}

// Left is what is not given away; limited is false where there is no limit.
func (a Amount) Left() (left uint64, limited bool) {
	switch {
	case a.Limit == nil:
		return 0, false
	case a.Endless || a.Used >= *a.Limit:
		return 0, true
	}
	return *a.Limit - a.Used, true
}

func (a *Amount) add(share *uint64) {
	if share == nil {
		a.Endless = true
		return
	}
	sum, carry := bits.Add64(a.Used, *share, 0)
	if carry != 0 {
		sum = math.MaxUint64
	}
	a.Used = sum
}

// Use is what a namespace has given to its agents.
type Use struct {
	Namespace string
	Agents    Amount
	MemoryMB  Amount
	Processes Amount
	FDs       Amount
}

// Use lists the namespaces that have limits by name or agents, by their names.
func (l *Ledger) Use() []Use {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := l.file.Names()
	for _, s := range l.shares {
		names = append(names, s.Namespace)
	}
	slices.Sort(names)
	var all []Use
	for _, name := range slices.Compact(names) {
		all = append(all, l.use(name))
	}
	return all
}

// use adds up the shares of a namespace; mu is held.
func (l *Ledger) use(namespace string) Use {
	limits := l.file.Of(namespace)
	u := Use{
		Namespace: namespace,
		Agents:    Amount{Limit: limits.Agents}, MemoryMB: Amount{Limit: limits.MemoryMB},
		Processes: Amount{Limit: limits.Processes}, FDs: Amount{Limit: limits.FDs},
	}
	for _, s := range l.shares {
		if s.Namespace != namespace {
			continue
		}
		u.Agents.add(&one)
		u.MemoryMB.add(s.MemoryMB)
		u.Processes.add(s.Processes)
		u.FDs.add(s.FDs)
	}
	return u
}

// resource is one thing that a namespace gives to its agents.
type resource struct {
	name   string // its key in the file, and in messages
	amount Amount
	of     func(Share) *uint64
}

func (u Use) resources() []resource {
	return []resource{
		{"max_memory_mb", u.MemoryMB, func(s Share) *uint64 { return s.MemoryMB }},
		{"max_processes", u.Processes, func(s Share) *uint64 { return s.Processes }},
		{"max_fds", u.FDs, func(s Share) *uint64 { return s.FDs }},
	}
}

// holders says which agents have what of the limited things of a namespace; mu is held.
func (l *Ledger) holders(u Use) string {
	var all []string
	for _, id := range slices.Sorted(maps.Keys(l.shares)) {
		s := l.shares[id]
		if s.Namespace != u.Namespace {
			continue
		}
		has := []string{fmt.Sprintf("%s (%s)", s.Name, id)}
		for _, r := range u.resources() {
			switch share := r.of(s); {
			case r.amount.Limit == nil:
			case share == nil:
				has = append(has, "without "+r.name)
			default:
				has = append(has, fmt.Sprintf("%s %d", r.name, *share))
			}
		}
		all = append(all, strings.Join(has, " "))
	}
	switch {
	case len(all) == 0:
		return "no agent runs in it"
	case len(all) > shown:
		all = append(all[:shown], fmt.Sprintf("and %d more", len(all)-shown))
	}
	return "in it run " + strings.Join(all, ", ")
}
