package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/journal"
)

// The operator of all simulations. A fixed key: a seed is all that a run depends on.
var (
	operatorKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	operatorDER = func() []byte {
		der, err := x509.MarshalPKIXPublicKey(operatorKey.Public())
		if err != nil {
			panic(err)
		}
		return der
	}()
)

// faults are what may happen in a run, besides crashes, which may in every one.
type faults struct {
	store    bool // the store goes away, and what was handed to it may or may not be there
	rollback bool // the parent presents an older journal, one of another process, or the older state folder
	clones   bool // several processes on copies of one state
	clock    bool // the wall clock jumps
	above    bool // a provider charges more than the worst
	anchor   bool // a step of the anchor fails, before or after it was taken
}

// world is everything outside of the enclave: anchor, parent, operator, provider, clock.
type world struct {
	rng     *rand.Rand
	faults  faults
	dir     string
	control *cost.Control

	time, skew time.Duration // that passed really; that the wall clock is wrong by
	anchor     simAnchor
	version    uint64            // of the newest grant
	grants     map[uint64]*grant // by version
	processes  []*process
	logs       []log                      // that the parent ever had, of processes that ended
	genuine    map[[sha256.Size]byte]bool // heads that an enclave signed: hash chains over entries, which stand for them
	states     []string                   // copies of state folders
	calls      []*call
	next       uint64 // request id

	over      map[scope]uint64  // charged above the worst, by scope and month
	charged   map[scope]uint64  // by scope and month
	allowance uint64            // that a scope narrower than the host may be over, after rollbacks and clones: what was forfeited then
	erased    map[string]bool   // months of which the parent made grants disappear
	used      map[string]string // month of the newest charge, by account
	low, high uint64            // what the host's account has spent, at least and at most; one process only
	problem   string
	trace     []string
}

type grant struct {
	signed []byte
	period string
	most   uint64
}

// log is a journal as a store has it, with the head of each batch.
type log struct {
	entries [][]byte
	batches []batchHead
	head    [sha256.Size]byte
}

// batchHead is a head that was signed, and over how many entries.
type batchHead struct {
	size int
	head [sha256.Size]byte
}

func (l log) clone() log { return log{slices.Clone(l.entries), slices.Clone(l.batches), l.head} }

// chain continues a hash chain over entries.
func chain(h [sha256.Size]byte, entries [][]byte) [sha256.Size]byte {
	for _, e := range entries {
		h = sha256.Sum256(append(h[:], e...))
	}
	return h
}

// call is one call as the provider and its caller see it.
type call struct {
	Call
	process   *process
	record    *record // until it is durable or refused
	left      bool
	actual    uint64 // that the provider charges in the end
	charged   bool
	ended     bool
	abandoned bool // by its caller, before it was durable
	settled   *record
	month     string
	grant     uint64
}

func (w *world) fail(format string, args ...any) {
	if w.problem == "" {
		w.problem = fmt.Sprintf(format, args...)
	}
}

func (w *world) say(format string, args ...any) {
	if *oneSeed > 0 {
		w.trace = append(w.trace, fmt.Sprintf(format, args...))
	}
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// begin is when every simulation begins: two days before a month ends.
var begin = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func (w *world) wall() time.Time { return begin.Add(w.time + w.skew) }

// simAnchor counts outside of every process.
type simAnchor struct {
	w       *world
	counter uint64
	version uint64
}

var errInjected = errors.New("injected")

func (a *simAnchor) ID() [32]byte { return [32]byte{1} }
func (a *simAnchor) Tier() string { return journal.TierSoftware }
func (a *simAnchor) Read(context.Context) (lease.Reading, error) {
	if a.w.faults.anchor && a.w.chance(2) {
		return lease.Reading{}, errInjected
	}
	return lease.Reading{Counter: a.counter, Version: a.version}, nil
}

func (a *simAnchor) Take(context.Context) (uint64, error) {
	if a.w.faults.anchor && a.w.chance(5) {
		if a.w.chance(50) {
			a.counter++
		}
		return 0, errInjected
	}
	a.counter++
	return a.counter, nil
}

func (a *simAnchor) Raise(_ context.Context, version uint64) error {
	a.version = max(a.version, version)
	return nil
}

// process is one life of an enclave.
type process struct {
	w        *world
	state    string
	log      log
	kept     [][]byte // a batch that was sent, and not acknowledged
	queue    []handed
	attached bool
	started  time.Duration
	ledger   *Ledger
	unseen   uint64                     // grant that was signed last before it started
	reserved map[journal.RequestID]bool // durable
}

type handed struct {
	then    func(error)
	entries [][]byte
}

// Attached implements Journal.
func (p *process) Attached() bool { return p.attached }

// TryAppend implements Journal.
func (p *process) TryAppend(then func(error), entries ...[]byte) (bool, error) {
	switch {
	case !p.attached:
		return false, lease.ErrNoStore
	case len(entries) == 0 || len(entries) > MaxEntries:
		p.w.fail("%d entries in one call", len(entries))
	case p.w.chance(5):
		return false, nil
	}
	p.queue = append(p.queue, handed{then, entries})
	return true, nil
}

// store makes a batch durable.
func (p *process) store(entries [][]byte) {
	if len(entries) == 0 {
		return
	}
	p.log.entries = append(p.log.entries, entries...)
	p.log.head = chain(p.log.head, entries)
	p.log.batches = append(p.log.batches, batchHead{len(p.log.entries), p.log.head})
	p.w.genuine[p.log.head] = true
	for _, raw := range entries {
		if e, err := journal.Decode(raw); err == nil && e.Type == journal.TypeReservation {
			if r, err := journal.DecodeReservation(e.Payload); err == nil {
				p.reserved[r.ID] = true
			}
		}
	}
}

// commit is one batch: of some of what waits, as the sequencer makes it.
func (p *process) commit() {
	if len(p.queue) == 0 {
		return
	}
	n := 1 + p.w.rng.IntN(len(p.queue))
	batch := slices.Clone(p.queue[:n])
	p.queue = slices.Delete(p.queue, 0, n)
	var entries [][]byte
	for _, h := range batch {
		entries = append(entries, h.entries...)
	}
	if p.w.faults.store && p.w.chance(10) { // the head cannot be signed: nothing of this batch is in the journal
		for _, h := range batch {
			h.then(errInjected)
		}
		return
	}
	if p.w.faults.store && p.w.chance(6) {
		p.detach(batch, entries)
		return
	}
	p.store(entries)
	for _, h := range batch {
		h.then(nil)
	}
}

// detach is a store that went away for long: the batch is kept and sent to the next store, whatever waits is given up, and nobody is told
// which.
func (p *process) detach(batch []handed, entries [][]byte) {
	p.w.say("the store goes away")
	p.attached = false
	p.kept = entries
	all := append(batch, p.queue...)
	p.queue = nil
	for _, h := range all {
		h.then(lease.ErrNoStore)
	}
}

func (p *process) attach() {
	p.attached = true
	p.store(p.kept)
	p.kept = nil
}

// drive lets everything run until something is done.
func (p *process) drive(done <-chan struct{}) {
	for range 10_000 {
		select {
		case <-done:
			return
		default:
		}
		if !p.attached && p.w.chance(30) {
			p.attach()
		}
		p.ledger.flush()
		p.commit()
	}
	p.w.fail("it never ends")
}

// rest lets everything run until all is on record.
func (p *process) rest() {
	for range 10_000 {
		if !p.attached {
			p.attach()
		}
		if p.ledger.flush() && len(p.queue) == 0 && len(p.ledger.out) == 0 {
			return
		}
		p.commit()
	}
	p.w.fail("it never comes to rest")
}

// start begins an epoch on a journal that the parent presents.
func (w *world) start(state string, presented log) *process {
	fold, err := added(presented.entries)
	if err == nil && w.chance(50) {
		fold, err = addedFromSnapshot(presented.entries)
	}
	if err != nil {
		w.fail("a genuine journal does not fold: %v", err)
		return nil
	}
	w.presented(state, fold)
	p := &process{w: w, unseen: w.version, state: state, log: presented, attached: true, started: w.time, reserved: map[journal.RequestID]bool{}}
	epoch, err := journal.NewEntry(journal.TypeEpoch, w.wall(), []byte("epoch"))
	if err != nil {
		w.fail("%v", err)
	}
	p.store([][]byte{epoch})
	p.ledger = open(Options{
		Journal: p, Control: w.control, Fold: fold, Log: slog.New(slog.DiscardHandler), Elapsed: func() time.Duration { return w.time - p.started },
		Leases: lease.Options{State: state, OperatorKeys: [][]byte{operatorDER}, Anchor: &w.anchor, Now: w.wall},
	})
	p.ledger.inline = p.drive
	w.processes = append(w.processes, p)
	return p
}

// added folds a journal from its beginning.
func added(entries [][]byte) (*Fold, error) {
	return addedTo(NewFold([][]byte{operatorDER}), entries)
}

func addedTo(fold *Fold, entries [][]byte) (*Fold, error) {
	for i, raw := range entries {
		e, err := journal.Decode(raw)
		if err == nil {
			err = fold.Apply(e)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return fold, nil
}

// addedFromSnapshot folds a journal from its newest whole snapshot on, if it has one.
func addedFromSnapshot(entries [][]byte) (*Fold, error) {
	fold, from := NewFold([][]byte{operatorDER}), 0
	var parts gathered
	for i, raw := range entries {
		e, err := journal.Decode(raw)
		if err != nil || e.Type != journal.TypeSnapshot {
			continue
		}
		whole, err := parts.add(e.Payload)
		if err != nil {
			return nil, err
		}
		if whole == nil {
			continue
		}
		if fold, err = RestoreFold(whole, [][]byte{operatorDER}); err != nil {
			return nil, fmt.Errorf("snapshot at entry %d: %w", i, err)
		}
		from = i + 1
	}
	return addedTo(fold, entries[from:])
}

// presented notes what a rollback may cost: what is forfeited counts for the host, and for narrower scopes it may be spent twice; whole
// grants that disappeared are known to nobody.
func (w *world) presented(state string, fold *Fold) {
	if w.faults.rollback || w.faults.clones {
		w.allowance += uint64(max(0, fold.credit)) + fold.host().held
	}
	seen := fold.version()
	for version, g := range w.grants {
		if version > seen && version < w.version {
			w.erased[g.period] = true
		}
	}
}

// version is that of the grant in force; 0: none.
func (f *Fold) version() uint64 {
	if g := f.leases.Grant(); g != nil {
		return g.Version
	}
	return 0
}

// replayed checks that a journal adds up to what the process has in memory.
func (p *process) replayed() {
	l := p.ledger
	if len(l.out) > 0 || len(p.queue) > 0 || l.stopped != nil || p.kept != nil {
		return
	}
	for how, replay := range map[string]func([][]byte) (*Fold, error){"the beginning": added, "the newest snapshot": addedFromSnapshot} {
		fold, err := replay(p.log.entries)
		if err != nil {
			p.w.fail("replay from %s: %v", how, err)
			return
		}
		now := max(l.now(), fold.clock)/int64(time.Second) + 1
		if got, want := fold.digest(now), l.fold.digest(now); got != want {
			p.w.fail("replay from %s differs:\n%s", how, difference(got, want))
		}
	}
}

// digest is all that a fold knows, at a time in Unix seconds.
func (f *Fold) digest(now int64) string {
	var lines []string
	for level, accounts := range f.accounts {
		for name, a := range accounts {
			b := a.balance(now)
			if b == (Balance{}) {
				continue
			}
			used := ""
			if level == Run { // the others' says nothing
				used = a.month
			}
			lines = append(lines, fmt.Sprintf("%d %q %+v %v %v %s", level, name, b, a.requests.counts(), a.tokens.counts(), used))
		}
	}
	for id, h := range f.open {
		lines = append(lines, fmt.Sprintf("open %s %d at %d of %v", id, h.Worst, h.at, f.generation == h.generation))
	}
	for i := range f.order {
		lines = append(lines, fmt.Sprintf("finished %s", f.order[(f.oldest+i)%len(f.order)]))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("credit %d unaccounted %d period %s first %v leases %+v\n", f.credit, f.unaccounted, f.period, f.first, f.leases.State())
	for _, line := range lines {
		text += line + "\n"
	}
	return text
}

// counts are what is in the buckets, by their numbers.
func (w *window) counts() map[int64]uint64 {
	all := map[int64]uint64{}
	for number := w.newest - int64(len(w.buckets)) + 1; number <= w.newest; number++ {
		if b := w.bucket(number * w.step); b != nil && *b > 0 {
			all[number] = *b
		}
	}
	return all
}

// difference is the lines that two texts do not share.
func difference(replay, memory string) string {
	a, b := strings.Split(replay, "\n"), strings.Split(memory, "\n")
	var out []string
	for _, line := range a {
		if !slices.Contains(b, line) {
			out = append(out, "replay: "+line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			out = append(out, "memory: "+line)
		}
	}
	return strings.Join(out, "\n")
}

// copyState copies the state folder, as whoever holds the disk can.
func (w *world) copyState(from string) string {
	to := filepath.Join(w.dir, fmt.Sprintf("state-%d", len(w.states)))
	w.states = append(w.states, to)
	if err := os.Mkdir(to, 0o700); err != nil {
		w.fail("%v", err)
	}
	if text, err := os.ReadFile(filepath.Join(from, lease.GrantFile)); err == nil {
		if err := statefile.Write(to, lease.GrantFile, text); err != nil {
			w.fail("%v", err)
		}
	}
	return to
}
