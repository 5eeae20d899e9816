package agents

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/policy"
)

// The life of an agent:
//
//	Launch ──> Launching ──Started──> Running
//	               │                   ▲   │
//	               │      Reattach ────┘   │
//	   Adopt ──> Waiting                   │
//	               │                       │
//	               └─ warden gone, stop, never came ──> Ending ──last process gone──> gone
//
// At 2/3 of a visa's lifetime the next one is asked for, and again until it comes: while the enclave cannot be reached, the
// agent keeps what its visa grants until that ends. Then it is closed, in whichever state: the kernel drops its packets (by the
// deadline that it was armed with) and its cgroup is frozen. A visa that comes later lets it go on.
//
// When the last process of the agent ends, in whichever state, it is gone: entry in the guard, cgroup and record are removed.
// When raypherd lets go (Detach), nothing changes for the agent.

// The waits of an agent's life.
const (
	startGrace   = 60 * time.Second       // from Granted to Started
	wardenGrace  = 15 * time.Second       // for a warden whose connection broke to come back
	firstRetry   = 500 * time.Millisecond // after a renewal that failed; doubled up to maxRetry
	maxRetry     = 5 * time.Second
	mintTimeout  = 10 * time.Second
	longestSleep = 15 * time.Second // timers stand still while the machine sleeps, so the clock is looked at this often
	killAgain    = time.Second      // a kill is repeated: a process may have been on its way in
	freezeAgain  = time.Second      // and so is the freezing of a closed agent: its user owns the file that thaws it
	// What the kernel refused last arrives after the last process has ended, folded counts up to a second later. So long a
	// gone agent is still known by its cgroup, and its warden is still told.
	lastEvents = 1200 * time.Millisecond
)

// lineChange says that the warden is connected through line, or, when went is set, that this line broke.
type lineChange struct {
	line   *outbox
	secret []byte // to be told with Granted, at the launch
	went   bool
}

// owner is the state that only the agent's goroutine touches.
type owner struct {
	*Agent
	empty   <-chan struct{}
	renewAt int64 // CLOCK_BOOTTIME
	retry   time.Duration
	minting bool
	minted  chan renewal
	// forgotten says that the enclave was connected anew while a visa was asked for.
	forgotten bool
	deadline  *time.Timer // ends Launching and Waiting, and a warden's absence
	killing   <-chan time.Time
	mints     sync.WaitGroup
}

type renewal struct {
	grant grant
	of    []byte // the intent that it was asked for
	err   error
}

// start sets up what the owner needs; Host.add begins the life.
func (a *Agent) start(empty <-chan struct{}) {
	a.stops = make(chan string, 1)
	a.narrows = make(chan *narrowing)
	a.lines = make(chan lineChange)
	a.begun = make(chan struct{}, 1)
	a.gone = make(chan struct{})
	a.detaches = make(chan uint32)
	a.renews = make(chan struct{}, 1)
	a.host.add(a, empty)
}

// live owns the agent until it is gone or raypherd lets go.
func (a *Agent) live(empty <-chan struct{}) {
	o := &owner{Agent: a, empty: empty, minted: make(chan renewal, 1), retry: firstRetry}
	o.renewAt = renewalTime(a.grant)
	if a.state == Waiting && a.handle != nil {
		o.renewAt = boottime() // the enclave may have been started anew with this raypherd, and not know whose calls of models are its
	}
	grace := startGrace
	if a.state == Waiting {
		grace = wardenGrace
	}
	o.deadline = time.NewTimer(grace)
	defer o.deadline.Stop()
	ctx, cancel := context.WithCancel(a.host.ctx)
	defer o.mints.Wait()
	defer cancel()
	var warden <-chan struct{}
	if a.warden != nil { // an attached agent has none
		defer a.warden.Close()
		warden = a.warden.Gone()
	} else {
		o.deadline.Stop()
	}
	for {
		clock := time.NewTimer(o.sleep())
		select {
		case <-o.empty:
			clock.Stop()
			o.end()
			return
		case <-a.host.ctx.Done():
			clock.Stop()
			o.closeLine()
			return
		case <-warden:
			warden = nil
			o.kill("its warden ended")
		case reason := <-a.stops:
			o.kill(reason)
		case <-o.deadline.C:
			o.kill("its warden did not come back, or never started the program")
		case <-o.killing:
			o.kill("")
		case <-a.begun:
			o.running()
		case by := <-a.detaches:
			clock.Stop()
			o.detached(by)
			return
		case change := <-a.lines:
			o.lineChanged(change)
		case n := <-a.narrows:
			n.done <- o.narrow(n)
		case <-a.renews:
			o.renewAt, o.forgotten = boottime(), o.minting
		case r := <-o.minted:
			o.renewed(r)
		case <-clock.C:
			o.look(ctx)
		}
		clock.Stop()
	}
}

// renewalTime is when 2/3 of the lifetime are over.
func renewalTime(g grant) int64 { return g.deadline - int64(g.lifetime)/3 }

// sleep is how long nothing is due.
func (o *owner) sleep() time.Duration {
	wait := longestSleep
	if o.state == Ending {
		return wait
	}
	if !o.minting {
		wait = min(wait, until(o.renewAt))
	}
	if !o.closed {
		wait = min(wait, until(o.current().deadline))
	} else if mode(o.current().permit) == policy.Enforce {
		wait = min(wait, freezeAgain)
	}
	return max(wait, 0)
}

// look acts on the clock: it asks for the next visa, and closes the agent when its visa has ended.
func (o *owner) look(ctx context.Context) {
	if o.state == Ending {
		return
	}
	if !o.minting && until(o.renewAt) <= 0 {
		o.minting = true
		intent := o.current().intent
		o.mints.Add(1)
		go func() {
			defer o.mints.Done()
			ctx, cancel := context.WithTimeout(ctx, mintTimeout)
			defer cancel()
			g, _, err := o.mint(ctx, boottime(), intent, nil)
			o.minted <- renewal{g, intent, err}
		}()
	}
	if !o.closed && until(o.current().deadline) <= 0 {
		o.close()
	} else if o.closed {
		o.freeze()
	}
}

// close is what happens when the visa ends: the kernel has closed the network already.
func (o *owner) close() {
	log := o.host.options.Log.With("agent", o.id, "subject", o.subject)
	log.Warn("the agent's visa ended and was not renewed: it is closed until it is")
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.freeze()
}

// freeze holds a closed agent still, unless its mode only watches, or the kernel holds all that is held of it.
func (o *owner) freeze() {
	if mode(o.current().permit) != policy.Enforce || o.attached != "" {
		return
	}
	if err := o.group.Freeze(true); err != nil {
		o.host.options.Log.Error("the agent cannot be frozen and is killed", "agent", o.id, "error", err)
		o.kill("it could not be frozen when its visa ended")
	}
}

// renewed takes the answer of the enclave.
func (o *owner) renewed(r renewal) {
	o.minting = false
	if o.state == Ending {
		return
	}
	if r.err != nil {
		if !errors.Is(r.err, context.Canceled) {
			o.host.options.Events.Count("renewals_failed", 1)
			o.host.options.Log.Warn("the agent's visa is not renewed yet", "agent", o.id, "ends in", until(o.current().deadline).Round(time.Second), "error", r.err)
		}
		o.renewAt = boottime() + int64(o.retry)
		o.retry = min(2*o.retry, maxRetry)
		return
	}
	if string(r.of) != string(o.current().intent) {
		o.renewAt = boottime() // the guard follows another intent by now
		return
	}
	if err := errors.Join(o.host.options.Guard.Renew(o.group.ID(), r.grant.deadline), o.extendFiles(r.grant)); err != nil {
		o.host.options.Log.Error("the guard does not take the renewal", "agent", o.id, "error", err)
		o.renewAt = boottime() + int64(o.retry)
		o.retry = min(2*o.retry, maxRetry)
		return
	}
	if r.grant.permit.Hash() != o.current().permit.Hash() { // there is another ceiling since
		if err := errors.Join(o.host.options.Guard.Replace(o.group.ID(), r.grant.permit.Network), o.reloadFiles(r.grant)); err != nil {
			o.host.options.Log.Error("the guard does not take the permit of the renewal", "agent", o.id, "error", err)
			if o.attached != "" {
				o.closeAttached()
				return
			}
			o.kill("the guard could not follow its renewed visa")
			return
		}
		o.take(r.grant)
		o.tell(narrowed(r.grant))
		return
	}
	o.take(r.grant)
	o.tell(&attend.ParentMessage{Renewed: &attend.Renewed{
		Visa: r.grant.visa, ExpiresUnix: r.grant.expires, ExpiresBoottimeNs: r.grant.deadline,
	}})
}

// take puts a grant in force and opens a closed agent.
func (o *owner) take(g grant) {
	o.mu.Lock()
	o.grant = g
	reopened := o.closed
	o.closed = false
	o.mu.Unlock()
	o.retry, o.renewAt = firstRetry, renewalTime(g)
	if o.forgotten { // it may be of the enclave before
		o.renewAt, o.forgotten = boottime(), false
	}
	if err := o.save(); err != nil {
		o.host.options.Log.Error("the agent's record is not written: a restart would not find its new visa", "agent", o.id, "error", err)
	}
	if reopened {
		if err := o.group.Freeze(false); err != nil {
			o.host.options.Log.Error("the agent cannot be thawed", "agent", o.id, "error", err)
		}
		o.host.options.Log.Info("the agent goes on: its visa was renewed", "agent", o.id)
	}
}

// running is what Started leads to.
func (o *owner) running() {
	if o.state != Launching {
		return
	}
	if o.isolated() {
		if err := o.connect(); err != nil {
			o.refuseStart(err) // its runner says so and ends; one that does not is killed when its time is over
			return
		}
	}
	if err := o.hold(); err != nil {
		o.host.options.Log.Error("the agent cannot begin", "agent", o.id, "error", err)
		o.kill("its rules for files could not be put in force: " + err.Error())
		return
	}
	o.setState(Running)
	o.deadline.Stop()
	if o.backend == LSM || o.isolated() {
		o.tell(&attend.ParentMessage{Armed: &attend.Armed{}})
	}
	if err := o.save(); err != nil {
		o.host.options.Log.Error("the agent's record is not written: it will not survive a restart of raypherd", "agent", o.id, "error", err)
	}
	o.host.options.Log.Info("agent runs", "agent", o.id, "subject", o.subject, "user", o.user, "program", o.program, "pid", o.runnerPID)
}

// lineChanged follows the warden's connection. A warden that lives and does not come back in time is as good as gone.
func (o *owner) lineChanged(c lineChange) {
	if c.went {
		if o.line != c.line {
			return // an older one; a newer has taken its place
		}
		o.setLine(nil)
		if o.state != Ending {
			o.deadline.Reset(wardenGrace)
		}
		return
	}
	o.closeLine()
	o.setLine(c.line)
	// Said by the owner, so that no renewal comes before it or falls between.
	granted := o.granted()
	granted.ReattachSecret = c.secret
	o.tell(&attend.ParentMessage{Granted: granted})
	if o.state == Waiting {
		o.setState(Running)
		o.host.options.Log.Info("agent found again after a restart", "agent", o.id, "subject", o.subject)
	}
	if o.state != Launching {
		o.deadline.Stop()
	}
}

func (o *owner) closeLine() {
	if o.line != nil {
		o.line.close()
	}
}

func (a *Agent) setLine(line *outbox) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.line = line
}

// tell sends the warden what it must know. If it is away, it learns it when it reattaches.
func (a *Agent) tell(m *attend.ParentMessage) {
	a.mu.Lock()
	line := a.line
	a.mu.Unlock()
	if line != nil {
		line.put(m)
	}
}

// kill ends every process of the agent. It is repeated until the cgroup is empty.
func (o *owner) kill(reason string) {
	if o.state != Ending {
		o.setState(Ending)
		o.host.options.Log.Info("agent is ended", "agent", o.id, "reason", reason)
		o.tell(&attend.ParentMessage{End: &attend.End{Reason: reason}})
	}
	if err := o.group.Kill(); err != nil {
		o.host.options.Log.Error("the agent is not killed", "agent", o.id, "error", err)
	}
	o.killing = time.After(killAgain)
}

// end cleans up after the last process.
func (o *owner) end() {
	o.setState(Ending)
	o.host.options.Approvals.Forget(o.id)
	refused, held := o.refused(), o.drain()
	o.toldAll()
	err := o.dissolve()
	if err != nil {
		o.host.options.Log.Error("something of an ended agent is left", "agent", o.id, "error", err)
	}
	o.host.unlist(o.Agent)
	o.host.options.Log.Info("agent ended", "agent", o.id, "subject", o.subject, "blocked", o.blocked.Load(), "ran", time.Since(o.started).Round(time.Millisecond))
	close(o.gone)
	select {
	case <-time.After(lastEvents):
	case <-o.host.ctx.Done():
	}
	o.account(refused, held)
	o.closeLine()
	o.host.remove(o.Agent)
}

// dissolve takes away what the host keeps for an agent.
func (a *Agent) dissolve() error {
	if a.attached != "" {
		return a.letGo()
	}
	return errors.Join(a.host.options.Guard.Disarm(a.group.ID()), a.host.dismiss(a.group.ID()), a.disconnect(), a.group.Remove(), a.forget())
}

// become makes the caller the agent's warden. There is no record yet: an agent that has not begun does not go on under another
// raypherd, which ends what it finds without one.
func (a *Agent) become(caller Caller) error {
	warden, err := task.Open(caller.Task.PID())
	if err != nil {
		return fmt.Errorf("launch: the warden: %w", err)
	}
	if !caller.Task.Alive() {
		warden.Close()
		return fmt.Errorf("launch: the warden: %w", task.ErrGone)
	}
	a.state, a.warden = Launching, warden
	return nil
}
