// Package approvals keeps the calls of agents that wait for a person: which are open, what was answered, and how long they may
// wait. Wardens ask (through package agents), operators answer (through package server, which sees to it that nothing inside an
// agent does).
//
// Nothing is released that is not on record: an answer goes to the enclave's journal first, and if it cannot, the call waits on.
// Questions are kept in memory alone: a warden asks again when it has come back to a restarted raypherd.
package approvals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
)

// What a refusal comes from.
var (
	ErrNone     = errors.New("no such question")
	ErrInvalid  = errors.New("invalid answer")
	ErrRecorded = errors.New("the answer is not on record, so the call waits on")
)

// Bounds.
const (
	MaxDuration   = 24 * time.Hour // of one answer
	maxPerAgent   = 512            // open questions; the broker asks fewer
	maxWatchers   = 64
	watcherRoom   = 1024 // changes that wait for a slow watcher; beyond them it is ended
	recordTimeout = 10 * time.Second
	recordRetry   = 2 * time.Second // of a time-out that could not be recorded
)

// Always is the end of a grant that holds for the agent's life, in nanoseconds of CLOCK_BOOTTIME.
const Always = 1<<63 - 1

// Asker is the agent behind a question. Its functions may be called from several goroutines.
type Asker struct {
	AgentID, Subject string
	VisaID           func() []byte
	// Closed reports why nothing can be granted now; nil: something can.
	Closed func() error
	// Release ends the question at the warden. until is as in attend.Answered. It is called once the answer is on record; what it
	// returns is told to who answered.
	Release func(q journal.Question, number uint64, approved bool, until int64) error
}

// Options of a desk.
type Options struct {
	// Record puts an encoded approval into the journal and returns when it is durable.
	Record func(ctx context.Context, approval []byte) (epoch []byte, index uint64, err error)
	// Proposals is the folder for proposed changes of policies; it is made when the first is written.
	Proposals string
	Log       *slog.Logger
}

// Question is one that waits.
type Question struct {
	ID      string // of the desk: unique, also across restarts
	AgentID string
	Subject string
	journal.Question
	Calls uint32 // how many equal ones wait, at least 1
	Asked time.Time
	Until time.Time // when it is refused; zero: never
}

// Change is a question that came, or one that is over.
type Change struct {
	Question Question
	Over     string // empty: it is open; approve | deny | timeout | gone
}

// Desk holds the open questions of one raypherd. Its methods may be called from several goroutines.
type Desk struct {
	options Options

	mutex    sync.Mutex
	open     map[string]*open
	watchers map[*Watcher]struct{}
	ended    bool
}

type open struct {
	Question
	asker     Asker
	number    uint64 // of the warden
	timer     *time.Timer
	answering bool // an answer is on its way to the journal
	withdrawn bool // while it was on its way
}

// New returns an empty desk.
func New(o Options) *Desk {
	return &Desk{options: o, open: map[string]*open{}, watchers: map[*Watcher]struct{}{}}
}

func name(agent string, number uint64) string { return fmt.Sprintf("%s-%d", agent, number) }

// Ask takes a question of a warden. One that is known already stays as it is. asked is when the call began to wait, in nanoseconds of
// CLOCK_BOOTTIME; limit is how long it may, 0: for ever.
func (d *Desk) Ask(from Asker, number uint64, q journal.Question, asked int64, limit time.Duration) error {
	waited := min(max(time.Duration(boottime()-asked), 0), 365*24*time.Hour)
	one := &open{
		Question: Question{
			ID: name(from.AgentID, number), AgentID: from.AgentID, Subject: from.Subject, Question: q,
			Calls: 1, Asked: time.Now().Add(-waited),
		},
		asker: from, number: number,
	}
	if limit > 0 {
		one.Until = one.Asked.Add(limit)
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.ended || d.open[one.ID] != nil {
		return nil
	}
	if d.of(from.AgentID) >= maxPerAgent {
		return fmt.Errorf("agent %s: %d questions wait already", from.AgentID, maxPerAgent)
	}
	d.open[one.ID] = one
	if limit > 0 {
		one.timer = time.AfterFunc(limit-waited, func() { d.expire(one) })
	}
	d.tell(Change{Question: one.Question})
	return nil
}

// Joined takes how many equal calls wait for the answer to an open question. One that is over is none.
func (d *Desk) Joined(agent string, number uint64, calls uint32) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if one := d.open[name(agent, number)]; one != nil {
		one.Calls = max(calls, 1)
	}
}

// of counts the questions of an agent. The mutex is held.
func (d *Desk) of(agent string) (n int) {
	for _, one := range d.open {
		if one.AgentID == agent {
			n++
		}
	}
	return n
}

// Withdraw takes back a question for whose answer nobody waits any more.
func (d *Desk) Withdraw(agent string, number uint64) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if one := d.open[name(agent, number)]; one != nil {
		d.withdraw(one)
	}
}

// Forget takes back all questions of an agent that is gone.
func (d *Desk) Forget(agent string) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for _, one := range d.open {
		if one.AgentID == agent {
			d.withdraw(one)
		}
	}
}

// withdraw drops a question, later if an answer is on its way. The mutex is held.
func (d *Desk) withdraw(one *open) {
	if one.answering {
		one.withdrawn = true
		return
	}
	d.drop(one, "gone")
}

// drop ends a question. The mutex is held.
func (d *Desk) drop(one *open, over string) {
	delete(d.open, one.ID)
	if one.timer != nil {
		one.timer.Stop()
	}
	d.tell(Change{Question: one.Question, Over: over})
}

// List returns the open questions of an agent, of all when it is empty; the oldest first.
func (d *Desk) List(agent string) []Question {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.list(agent)
}

func (d *Desk) list(agent string) []Question {
	var all []Question
	for _, one := range d.open {
		if agent == "" || one.AgentID == agent {
			all = append(all, one.Question)
		}
	}
	slices.SortFunc(all, func(a, b Question) int { return cmp.Or(a.Asked.Compare(b.Asked), cmp.Compare(a.ID, b.ID)) })
	return all
}

// Close ends all watchers and takes no questions any more. What waits, waits on: the next raypherd is asked again.
func (d *Desk) Close() {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.ended = true
	for _, one := range d.open {
		if one.timer != nil {
			one.timer.Stop()
		}
	}
	for w := range d.watchers {
		d.end(w)
	}
}

func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every kernel since 2.6.39 has it
	}
	return ts.Nano()
}
