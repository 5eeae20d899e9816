package broker

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
)

// Where the permit says require_approval, a call waits for a person. No thread waits with it: its notification is kept, and the
// question is handed to Options.Ask. When a person has agreed, the call's handler runs again from its start, with a grant for
// exactly what was asked: this call, this operation, these resolved paths. What the call means by then is looked up anew; if it is
// something else, that is another question. So nothing is decided on memory that was read for the question.
//
// A call that was asked about never continues on the floor's account: the broker performs it itself, once. Only the kernel can
// execute a program, so an exec continues (package floor says what bounds it).
//
// The agent sees a slow call. The filter was installed with WAIT_KILLABLE_RECV: while it waits, only its death ends it, and no signal
// makes it happen a second time.

// Bounds of one agent. Beyond them a call is refused, and the verdict says why.
const (
	maxQuestions = 256  // open at once
	maxHeld      = 1024 // calls that wait for their answers
	maxStanding  = 4096 // answers that hold for longer than one call
	maxMatters   = 16   // questions of one call: two paths, or a script with its interpreters
	maxResumers  = 4
)

// goneEvery is how often it is looked whether a call that waits was ended with its process.
const goneEvery = 250 * time.Millisecond

// ruleTooMany is in the verdict on a call that would have to wait behind too many others.
const ruleTooMany = "require_approval: too many calls of this agent wait for a person already"

// Question is what a person is asked: whether the agent may do this now.
type Question struct {
	ID        uint64 // unique for this agent
	Operation string
	Target    string // resolved
	Other     string // the new path of a rename, the object that a link would name, the mode, owner or length that is set
	Rule      string // of the permit that asks
	PID       uint32 // of the first task that waits
	Comm      string
	Asked     int64 // CLOCK_BOOTTIME, nanoseconds
	Calls     int   // how many equal ones wait
	Known     bool  // asked before: nothing but Calls has changed
}

// QuestionName is how people name the question of an agent.
func QuestionName(agent string, id uint64) string { return fmt.Sprintf("%s-%d", agent, id) }

// Answer is what a person said.
type Answer struct {
	Approved bool
	// Until is how long equal calls are granted too: 0, only those that wait now; Always, the agent's life; else CLOCK_BOOTTIME in
	// nanoseconds.
	Until int64
}

// Always is the end of an answer that holds for the agent's life.
const Always = 1<<63 - 1

// matter is what makes two questions equal.
type matter struct{ operation, target, other string }

// held is a call that waits.
type held struct {
	n       notification
	granted []matter // of this call, so far
}

// asked is an open question with the calls that wait for its answer.
type asked struct {
	question Question // Calls is what was told last
	matter   matter
	calls    []held
}

// approvals are the questions of one agent. It is safe for concurrent use.
type approvals struct {
	mutex    sync.Mutex
	last     uint64
	open     map[uint64]*asked
	held     int
	standing map[matter]int64
	queue    []held // answered, not yet resumed
	resumers int
	watching bool
}

func newApprovals() *approvals {
	return &approvals{open: map[uint64]*asked{}, standing: map[matter]int64{}}
}

// settle acts on a decision. It is not settled where the access is granted, by the permit or by a person; then the caller goes on.
// e needs no rule and no errno.
func (w *worker) settle(n *notification, r *ruling, d policy.Decision, e event) (a answer, settled bool) {
	e.rule, e.errno = d.Rule, unix.EACCES
	switch {
	case d.Verdict == policy.VerdictAllow:
		return answer{}, false
	case d.Verdict != policy.VerdictApproval:
		return w.refuse(n, r, e), true
	case r.lenient:
		w.note(n, r, journal.WouldAsk, e)
		return goOn, true
	}
	m := matter{e.operation, e.target, e.how}
	if e.of[0] != "" {
		m.target, m.other = e.of[0], e.of[1]
		m.operation = cmp.Or(e.how, e.operation)
	}
	if slices.Contains(w.granted, m) {
		return answer{}, false
	}
	w.unanswered, w.asks = m, e
	return answer{kind: answerAsk}, true
}

// onlyIf is d where the object has a path, and a refusal where it has none.
func onlyIf(named bool, d policy.Decision) policy.Decision {
	if !named {
		d.Verdict = policy.VerdictBlock
	}
	return d
}

// decided runs the handler of a call until it is decided or waits for a person. granted is what a person agreed to.
func (w *worker) decided(n *notification, r *ruling, c *call, granted []matter) answer {
	w.granted = granted
	for range maxMatters {
		if len(w.granted) > 0 && !r.narrowed {
			exact := *r
			exact.narrowed = true // never on the floor's account
			r = &exact
		}
		w.away = false
		a := c.handle(w, n, r)
		if w.away && a.kind == answerValue && a.errno != 0 {
			return w.unseen(n, r, c)
		}
		if a.kind != answerAsk {
			return a
		}
		switch w.approvals.consult(w, n) {
		case consultGranted:
			w.granted = append(slices.Clip(w.granted), w.unanswered)
		case consultHeld:
			return answer{kind: answerNever}
		case consultFull:
			w.asks.rule = ruleTooMany
			return w.refuse(n, r, w.asks)
		}
	}
	w.asks.rule = ruleTooMany
	return w.refuse(n, r, w.asks)
}

type consulted uint8

const (
	consultHeld consulted = iota
	consultGranted
	consultFull
)

// consult looks for an answer that holds, or else lets the call wait for one.
func (s *approvals) consult(w *worker, n *notification) consulted {
	m := w.unanswered
	s.mutex.Lock()
	if until, ok := s.standing[m]; ok {
		if until > bootTime() {
			s.mutex.Unlock()
			return consultGranted
		}
		delete(s.standing, m)
	}
	one := s.find(m)
	if w.options.Ask == nil || s.held >= maxHeld || one == nil && len(s.open) >= maxQuestions {
		s.mutex.Unlock()
		return consultFull
	}
	fresh := one == nil
	if fresh {
		s.last++
		one = &asked{matter: m, question: Question{
			ID: s.last, Operation: m.operation, Target: m.target, Other: m.other, Rule: w.asks.rule,
			PID: n.PID, Comm: comm(n.PID), Asked: bootTime(), Calls: 1,
		}}
		s.open[one.question.ID] = one
	}
	one.calls = append(one.calls, held{n: *n, granted: slices.Clone(w.granted)})
	s.held++
	watch := !s.watching
	s.watching = true
	q := one.question
	s.mutex.Unlock()
	if watch {
		go w.Broker.watchHeld()
	}
	if fresh {
		w.options.Ask(q)
	}
	return consultHeld
}

// find returns the open question about a matter. s.mutex is held.
func (s *approvals) find(m matter) *asked {
	for _, one := range s.open {
		if one.matter == m {
			return one
		}
	}
	return nil
}

// Questions are the open ones, for a raypherd that does not know them yet.
func (b *Broker) Questions() []Question {
	s := b.approvals
	s.mutex.Lock()
	defer s.mutex.Unlock()
	all := make([]Question, 0, len(s.open))
	for _, one := range s.open {
		all = append(all, one.question)
	}
	slices.SortFunc(all, func(a, b Question) int { return int(int64(a.ID) - int64(b.ID)) })
	return all
}

// Answer ends a question. One that is not open any more was answered, or nobody waits for it.
func (b *Broker) Answer(id uint64, a Answer) {
	s := b.approvals
	s.mutex.Lock()
	one := s.open[id]
	if one == nil {
		s.mutex.Unlock()
		return
	}
	delete(s.open, id)
	s.held -= len(one.calls)
	if !a.Approved {
		s.mutex.Unlock()
		go b.deny(one)
		return
	}
	if a.Until != 0 && len(s.standing) < maxStanding {
		s.standing[one.matter] = a.Until
	}
	for _, h := range one.calls {
		h.granted = append(h.granted, one.matter)
		s.queue = append(s.queue, h)
	}
	start := min(len(s.queue), maxResumers) - s.resumers
	s.resumers += max(start, 0)
	s.mutex.Unlock()
	for range start {
		go b.resume()
	}
}

// deny refuses the calls of a question. It is no violation: a person said no, and the program can go on.
func (b *Broker) deny(one *asked) {
	w := &worker{Broker: b}
	e := event{operation: one.matter.operation, target: one.matter.target, rule: one.question.Rule, layer: journal.LayerApproval, errno: unix.EACCES}
	for i := range one.calls {
		if n := &one.calls[i].n; w.valid(n) {
			w.note(n, w.rules.Load(), journal.Block, e)
			w.send(n, fail(unix.EACCES))
		}
	}
}

// resume is a worker for calls that were granted. It ends when none is left.
func (b *Broker) resume() {
	w := newWorker(b)
	if err := w.ownThread(); err != nil {
		b.fatal <- err
		return
	}
	for {
		h, ok := b.approvals.next()
		if !ok {
			return
		}
		if !w.valid(&h.n) {
			continue
		}
		w.send(&h.n, w.decided(&h.n, w.rules.Load(), w.calls.of(h.n.Number), h.granted))
	}
}

// next takes a call off the queue; false: the resumer is not needed any more.
func (s *approvals) next() (held, bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.queue) == 0 {
		s.resumers--
		return held{}, false
	}
	h := s.queue[0]
	s.queue = s.queue[1:]
	return h, true
}

// watchHeld takes back what nobody waits for any more, tells how many calls wait where that has changed, and ends with the last call
// that waits.
func (b *Broker) watchHeld() {
	for b.dropGone() {
		time.Sleep(goneEvery)
	}
}

// dropGone reports whether calls still wait.
func (b *Broker) dropGone() bool {
	s := b.approvals
	var gone []uint64
	var changed []Question
	s.mutex.Lock()
	for id, one := range s.open {
		before := len(one.calls)
		one.calls = slices.DeleteFunc(one.calls, func(h held) bool { return !b.waits(&h.n) })
		s.held -= before - len(one.calls)
		if len(one.calls) == 0 {
			delete(s.open, id)
			gone = append(gone, id)
		} else if len(one.calls) != one.question.Calls {
			one.question.Calls = len(one.calls)
			q := one.question
			q.Known = true
			changed = append(changed, q)
		}
	}
	left := len(s.open) > 0
	s.watching = left
	s.mutex.Unlock()
	for _, q := range changed {
		b.options.Ask(q)
	}
	for _, id := range gone {
		if b.options.Withdraw != nil {
			b.options.Withdraw(id)
		}
	}
	return left
}

func bootTime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every kernel since 2.6.39 has it
	}
	return t.Nano()
}
