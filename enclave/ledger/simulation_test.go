package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run this seed of TestSimulation alone, and tell its steps")
	seeds   = flag.Uint64("seeds", 10_000, "how many seeds TestSimulation runs")
	from    = flag.Uint64("from", 1, "the first of them")
)

const (
	simSteps  = 120
	sliceSize = 500 // seeds of one subtest
)

// TestSimulation runs the ledger through thousands of lives in which everything around it fails: an oracle adds up what a provider
// really charged. The same seed is the same run: `go test ./enclave/ledger -run TestSimulation -seed N`.
func TestSimulation(t *testing.T) {
	if *oneSeed > 0 {
		w, calls := simulate(t, *oneSeed)
		t.Log(strings.Join(w.trace, "\n"))
		t.Logf("seed %d: %d calls", *oneSeed, calls)
		if w.problem != "" {
			t.Fatal(w.problem)
		}
		return
	}
	count := *seeds
	switch {
	case testing.Short() && raced:
		count = min(count, 40)
	case testing.Short():
		count = min(count, 1000)
	}
	for first := *from; first < *from+count; first += sliceSize {
		last := min(first+sliceSize, *from+count) - 1
		t.Run(fmt.Sprintf("%d-%d", first, last), func(t *testing.T) {
			t.Parallel()
			left := 0
			for seed := first; seed <= last; seed++ {
				w, calls := simulate(t, seed)
				left += calls
				if w.problem != "" {
					t.Fatalf("seed %d: %s\nagain: go test ./enclave/ledger -run TestSimulation -seed %d", seed, w.problem, seed)
				}
			}
			t.Logf("%d seeds, %d calls left", last-first+1, left)
		})
	}
	t.Logf("%d seeds from %d on", count, *from)
}

// scratch is where state folders lie: in memory, where the machine has that, for nothing here is about disks.
func scratch(t *testing.T) string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		if dir, err := os.MkdirTemp("/dev/shm", "raypher-ledger-"); err == nil {
			return dir
		}
	}
	return t.TempDir()
}

func simulate(t *testing.T, seed uint64) (*world, int) {
	rng := rand.New(rand.NewPCG(seed, 0x7261797068657231))
	w := &world{
		rng: rng, dir: scratch(t), grants: map[uint64]*grant{}, genuine: map[[32]byte]bool{},
		over: map[scope]uint64{}, charged: map[scope]uint64{}, erased: map[string]bool{}, used: map[string]string{},
	}
	defer os.RemoveAll(w.dir)
	flip := func() bool { return rng.IntN(3) == 0 }
	w.faults = faults{store: flip(), rollback: flip(), clones: flip(), clock: flip(), above: flip(), anchor: flip()}
	w.anchor = simAnchor{w: w, counter: rng.Uint64N(50)}
	w.control = simControl(1 + 2*cost.Amount(rng.IntN(2)))
	w.say("seed %d: %+v", seed, w.faults)
	w.start(w.copyState("/nonexistent"), log{})
	w.install(w.processes[0])
	for range simSteps {
		if w.problem != "" {
			break
		}
		w.step()
		w.check()
		if w.chance(2) {
			for _, p := range w.processes {
				p.replayed()
			}
		}
	}
	for _, p := range w.processes {
		p.rest()
		p.replayed()
	}
	w.check()
	left := 0
	for _, c := range w.calls {
		if c.left {
			left++
		}
	}
	return w, left
}

// simControl has caps that are small, so that each binds in some runs: those of one file, or a share of them.
func simControl(share cost.Amount) *cost.Control {
	budget := func(a cost.Amount) cost.Limits {
		a /= share
		return cost.Limits{Budget: &a}
	}
	most, tokens := uint64(40), uint64(300_000)
	host := budget(10_000_000)
	host.RequestsPerMinute, host.TokensPerDay = &most, &tokens
	return &cost.Control{
		Host: host, PerRun: budget(1_500_000),
		Namespaces: map[string]cost.Scope{
			"dev":         {Limits: budget(6_000_000), Agents: map[string]cost.Scope{"coder": {Limits: budget(3_000_000)}}},
			cost.Everyone: {Limits: budget(7_000_000)},
		},
	}
}

// step is one thing that happens.
func (w *world) step() {
	w.time += time.Duration(w.rng.IntN(4000)) * time.Millisecond
	p := w.processes[w.rng.IntN(len(w.processes))]
	switch n := w.rng.IntN(100); {
	case n < 40:
		w.reserve(p)
	case n < 62:
		w.finish()
	case n < 74:
		p.ledger.flush()
		p.commit()
		w.collect()
	case n < 78:
		w.nonsense(p)
	case n < 82:
		w.pass()
	case n < 85:
		w.install(p)
	case n < 89:
		w.crash(p)
	case n < 91 && w.faults.clones && len(w.processes) < 3:
		w.clone(p)
	case n < 93:
		w.remember(p)
	case n < 96 && w.faults.clock:
		w.skew += time.Duration(w.rng.Int64N(int64(80*24*time.Hour))) - 40*24*time.Hour
		w.say("the wall clock jumps to %s", w.wall())
	default:
		if !p.attached {
			p.attach()
		}
		p.rest()
		w.collect()
	}
}

// remember writes a snapshot, in parts that are small here, so that a crash leaves some of them.
func (w *world) remember(p *process) {
	if p.ledger.lock(context.Background()) != nil {
		return
	}
	defer p.ledger.mu.Unlock()
	if _, err := p.ledger.remember(); err != nil {
		w.fail("snapshot: %v", err)
	}
	w.say("a snapshot")
}

// pass lets time pass: minutes, hours, or days.
func (w *world) pass() {
	most := []time.Duration{2 * time.Minute, 5 * time.Hour, 30 * time.Hour}[w.rng.IntN(3)]
	w.time += time.Duration(w.rng.Int64N(int64(most)))
	w.say("it is %s", w.wall().Format(time.RFC3339))
}

// install signs and installs a grant: a top-up, or the next month's.
func (w *world) install(p *process) {
	period := lease.PeriodOf(w.wall())
	most := 1_000_000 + w.rng.Uint64N(9_000_000)
	g := &lease.Grant{
		Version: w.version + 1, Period: period, Unit: lease.MicroUSD, Cap: most, Lease: most / (1 + w.rng.Uint64N(12)),
		Anchor: w.anchor.ID(), Baseline: w.anchor.counter,
	}
	var err error
	if g.NotBefore, g.NotAfter, err = lease.Month(period); err != nil {
		w.fail("%v", err)
		return
	}
	signed, err := lease.Sign(g, operatorKey)
	if err != nil {
		w.fail("%v", err)
		return
	}
	if g := w.grants[p.unseen]; g != nil && p.ledger.fold.version() < p.unseen {
		w.erased[g.period] = true // it will never be on record again
	}
	w.version++
	w.grants[w.version] = &grant{signed: signed, period: period, most: most}
	month := p.ledger.fold.period
	_, err = p.ledger.Install(context.Background(), signed)
	w.say("install grant %d of %s for %s: %v", w.version, cost.Amount(most), period, err)
	w.collect()
	w.rolled(p, month)
}

// rolled begins the host's account anew if a month has.
func (w *world) rolled(p *process, month string) {
	if host := p.ledger.fold.host(); p.ledger.fold.period > month {
		w.low, w.high = host.spent, host.spent
		w.forget(p, month)
	}
}

// forget begins a run's account anew if the fold has forgotten it, which it must not in the month after its use.
func (w *world) forget(p *process, ended string) {
	for what := range w.charged {
		if what.level != Run || p.ledger.fold.accounts[Run][what.name] != nil || w.faults.rollback || w.faults.clones {
			continue
		}
		if w.used[what.name] == ended {
			w.fail("run %s is forgotten in the month after its use", what.name)
		}
		w.charged[what], w.over[what] = 0, 0
	}
}

// reserve is a call that wants to leave.
func (w *world) reserve(p *process) {
	w.next++
	c := &call{process: p, Call: Call{
		Namespace: []string{"dev", "ops"}[w.rng.IntN(2)], Agent: []string{"coder", "tester"}[w.rng.IntN(2)], Run: fmt.Sprint("run", w.rng.IntN(3)),
		Provider: "scripted", Model: "m", Worst: cost.Amount(w.rng.Uint64N(600_000)), Tokens: w.rng.Uint64N(9000),
	}}
	binary.BigEndian.PutUint64(c.ID[:], w.next)
	c.actual = w.rng.Uint64N(uint64(c.Worst) + 1)
	if w.faults.above && w.chance(2) {
		c.actual = uint64(c.Worst) + w.rng.Uint64N(400_000)
	}
	month := p.ledger.fold.period
	defer func() { w.rolled(p, month) }()
	for {
		r, short, err := p.ledger.begin(context.Background(), &c.Call)
		if err != nil {
			w.say("refused: %v", err)
			return
		}
		if !short {
			c.record = r
			break
		}
		if err := p.ledger.draw(context.Background(), &c.Call); err != nil {
			w.say("no credit: %v", err)
			return
		}
	}
	c.month, c.grant = p.ledger.fold.period, p.ledger.fold.leases.Grant().Version
	w.say("reserve %d: %s of %s/%s/%s", w.next, c.Worst, c.Namespace, c.Agent, c.Run)
	w.calls = append(w.calls, c)
	w.collect()
	if c.record != nil && w.chance(5) { // its caller gives up
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if err := p.ledger.awaitHold(gone, c.record); err == nil {
			w.fail("a caller that gave up was told that its call may leave")
		}
		c.record, c.ended, c.abandoned = nil, true, true
		w.say("call %d is given up", w.next)
	}
}

// collect looks which reservations are durable: their calls leave.
func (w *world) collect() {
	for _, c := range w.calls {
		if c.record == nil {
			continue
		}
		select {
		case <-c.record.done:
			c.left = c.record.err == nil
			if c.left && !c.process.reserved[c.ID] {
				w.fail("call %x may leave and its reservation is not in the journal", c.ID)
			}
			c.ended, c.abandoned = !c.left, !c.left
			c.record = nil
		default:
		}
	}
}

// charge is what the provider does with a call that left, whatever becomes of the answer.
func (w *world) charge(c *call) {
	if !c.left || c.charged {
		return
	}
	c.charged = true
	r := c.reservation(journal.Hash{})
	for level, name := range names(r) {
		w.charged[scopeOf(level, name, c.month)] += c.actual
		w.used[name] = c.month
		w.over[scopeOf(level, name, c.month)] += max(c.actual, uint64(c.Worst)) - uint64(c.Worst)
	}
	w.charged[scope{grant: c.grant}] += c.actual
	w.over[scope{grant: c.grant}] += max(c.actual, uint64(c.Worst)) - uint64(c.Worst)
}

// scope is what a cap is of: an account in a month, or a grant.
type scope struct {
	level       int
	name, month string
	grant       uint64
}

func scopeOf(level int, name, month string) scope {
	if level == Run { // for its life
		month = ""
	}
	return scope{level: level, name: name, month: month}
}

// finish ends a call that left: settled, or kept because its answer said nothing.
func (w *world) finish() {
	open := slices.DeleteFunc(slices.Clone(w.calls), func(c *call) bool { return !c.left || c.ended })
	if len(open) == 0 {
		return
	}
	c := open[w.rng.IntN(len(open))]
	w.charge(c)
	s := &journal.Settlement{ID: c.ID, Outcome: journal.Settled, Actual: c.actual, Tokens: c.Tokens / 2}
	spent := c.actual
	if c.actual <= uint64(c.Worst) && w.chance(20) {
		s, spent = &journal.Settlement{ID: c.ID, Outcome: journal.Kept}, uint64(c.Worst)
	}
	r, err := c.process.ledger.end(context.Background(), s)
	w.say("settle %x with %s: %v", c.ID[7], cost.Amount(spent), err)
	c.ended = true
	switch {
	case err == nil:
		c.settled = r
		w.low, w.high = w.low+spent, w.high+spent
	case errors.Is(err, ErrStopped):
		c.ended = false // held until a restart
	default:
		w.fail("call %x of %s cannot be settled: %v", c.ID, c.month, err)
	}
}

// nonsense is what a caller must not say.
func (w *world) nonsense(p *process) {
	if len(w.calls) == 0 {
		return
	}
	c := w.calls[w.rng.IntN(len(w.calls))]
	before := p.ledger.fold.host().balance(0)
	switch {
	case c.ended || !c.left || c.process != p: // twice, late, or of another process
		if _, err := p.ledger.end(context.Background(), &journal.Settlement{ID: c.ID, Outcome: journal.Settled}); err == nil {
			w.fail("call %x is settled, and it is not under way here", c.ID)
		}
	default: // the same call again
		if _, short, err := p.ledger.begin(context.Background(), &c.Call); (err != nil && !errors.Is(err, ErrStopped)) || short {
			w.fail("the same call again: %v", err)
		}
	}
	if after := p.ledger.fold.host().balance(0); after != before {
		w.fail("nonsense changed what counts from %+v to %+v", before, after)
	}
}

// crash ends a process, and starts another on what the parent presents.
func (w *world) crash(p *process) {
	w.collect()
	if len(p.queue) > 0 && w.chance(50) { // what was sent is stored, and nobody hears of it
		var entries [][]byte
		for _, h := range p.queue[:1+w.rng.IntN(len(p.queue))] {
			entries = append(entries, h.entries...)
		}
		p.store(entries)
	} else if p.kept != nil && w.chance(50) {
		p.attach()
	}
	for _, c := range w.calls {
		if c.process != p {
			continue
		}
		if c.abandoned { // held, withdrawn, or never on record
			w.high += uint64(c.Worst)
			c.abandoned = false
		}
		if !c.ended || c.settled != nil {
			w.lose(c)
		}
	}
	w.processes = slices.DeleteFunc(w.processes, func(q *process) bool { return q == p })
	w.logs = append(w.logs, p.log.clone())
	presented, state, honest := w.present(p)
	w.say("restart on %d of %d entries", len(presented.entries), len(p.log.entries))
	next := w.start(state, presented)
	if next == nil {
		return
	}
	spent := next.ledger.fold.host().spent
	w.say("%d spent of %s, expected %d to %d", spent, next.ledger.fold.period, w.low, w.high)
	sameMonth := next.ledger.fold.period == p.ledger.fold.period
	if honest && sameMonth && !w.faults.clones && !w.faults.rollback && (spent < w.low || spent > w.high) {
		w.fail("after a restart %d is spent, it has to be %d to %d", spent, w.low, w.high)
	}
	w.low, w.high = spent, spent
}

// lose is what a crash does to a call: the provider charges what left, and of what was not acknowledged nobody knows whether it is on
// record.
func (w *world) lose(c *call) {
	worst := uint64(c.Worst)
	switch {
	case c.settled != nil:
		select {
		case <-c.settled.done:
			if c.settled.err == nil {
				return
			}
		default:
		}
		w.low -= min(w.low, c.actual-min(c.actual, worst)) // kept instead, if the settlement is lost: the worst
		w.high += worst
		w.low -= min(w.low, worst)
	case c.left:
		w.charge(c)
		w.low, w.high = w.low+worst, w.high+worst
	case c.record != nil:
		w.high += worst
	}
	c.record, c.settled, c.ended = nil, nil, true
}

// present is what the parent shows to a new process: the journal as it is, or something else where the run has such parents. What is not
// under a genuine head is refused.
func (w *world) present(p *process) (l log, state string, honest bool) {
	l, state = p.log, p.state
	if w.faults.rollback && w.chance(40) {
		l = w.logs[w.rng.IntN(len(w.logs))].clone()
		if len(l.batches) > 0 {
			l.batches = l.batches[:1+w.rng.IntN(len(l.batches))]
			l.entries = l.entries[:l.batches[len(l.batches)-1].size]
			l.head = l.batches[len(l.batches)-1].head
		}
		if w.chance(30) {
			state = w.copyState(w.states[w.rng.IntN(len(w.states))])
		}
		return l, state, false
	}
	bent := l.clone()
	switch n := len(bent.entries); w.rng.IntN(4) {
	case 0:
		bent.entries = slices.Delete(bent.entries, n/2, n/2+1)
	case 1:
		bent.entries = append(bent.entries, bent.entries[n-1])
	case 2:
		slices.Reverse(bent.entries[n/2:])
		if n-n/2 < 2 {
			return l, state, true
		}
	default:
		return l, state, true
	}
	if w.genuine[chain([32]byte{}, bent.entries)] && len(bent.entries) >= len(l.entries) {
		w.fail("a journal that was tampered with passes for a genuine one")
	}
	return l, state, true
}

// clone starts a second process on a copy of everything, beside the first.
func (w *world) clone(p *process) {
	w.say("a clone starts")
	w.start(w.copyState(p.state), p.log.clone())
}

// check holds what must hold at every moment.
func (w *world) check() {
	w.collect()
	within := func(what scope, most uint64) {
		if charged := w.charged[what]; charged > most+w.over[what] {
			w.fail("%+v: %d is charged of at most %d, and %d above the worst", what, charged, most, w.over[what])
		}
	}
	months := map[string]bool{}
	for version, g := range w.grants {
		within(scope{grant: version}, g.most)
		months[g.period] = true
	}
	for month := range months {
		if w.erased[month] { // its grants bound it, and nothing else can
			continue
		}
		within(scopeOf(Host, "", month), uint64(*w.control.Host.Budget))
		for _, namespace := range []string{"dev", "ops"} {
			within(scopeOf(Namespace, namespace, month), uint64(*w.control.Limits(namespace, "")[Namespace].Budget)+w.allowance)
		}
		within(scopeOf(Agent, "dev/coder", month), uint64(*w.control.Limits("dev", "coder")[Agent].Budget)+w.allowance)
	}
	if len(w.erased) > 0 {
		return
	}
	for _, agent := range []string{"dev/coder", "dev/tester", "ops/coder", "ops/tester"} {
		for run := range 3 {
			within(scopeOf(Run, fmt.Sprint(agent, "/run", run), ""), uint64(*w.control.PerRun.Budget)+w.allowance)
		}
	}
}
