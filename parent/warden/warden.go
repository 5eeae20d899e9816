package warden

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/broker"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/parent/relay"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
	"github.com/raypher/raypher/visa"
)

// Floor is what the runner took, so that the warden knows which accesses the kernel decides.
type Floor struct {
	Task     int           `json:"task"` // the thread that took it
	Grants   []floor.Grant `json:"grants"`
	Open     bool          `json:"open"`
	Devices  []string      `json:"devices,omitempty"`
	Closed   []string      `json:"closed,omitempty"`
	Sealed   []string      `json:"sealed,omitempty"`
	VisaFile bool          `json:"visa_file,omitempty"` // the visa's file comes with the listener
	Static   bool          `json:"static,omitempty"`    // Landlock alone decides on files
	Signals  bool          `json:"signals,omitempty"`   // Landlock does not keep signals inside
}

// Options of a warden.
type Options struct {
	Runner  *Conversation
	Connect Connect
	Relay   *relay.Client // what Yama keeps from a warden; nil: it stays refused
	Relayed bool          // ask it from the start, whatever Yama is set to: for tests
	Output  *os.File      // where lines for the person go; nil: nowhere
	JSON    bool
	Color   bool
	Trace   *os.File // takes the trace of a run in mode audit, which any other mode then refuses; nil: none is kept
	Report  *os.File // takes what enforce would have refused, in mode audit, as JSON; nil: nothing
}

// warden is the state of one run.
type warden struct {
	options Options
	key     []byte // COSE_Key that the visas confirm
	granted *attend.Granted
	relayed bool           // Yama keeps the warden from its agent
	terms   *attend.Terms  // of which permit and resolved are
	permit  *policy.Policy // of the launch
	// resolved is the permit as the kernel's floor has it, and cgroup the agent's as /proc/<pid>/cgroup shows it.
	resolved *policy.Policy
	cgroup   string
	pass     pass
	visaID   atomic.Pointer[[]byte]
	session  Session
	// endSession ends the first session.
	endSession context.CancelFunc
	line       *line
	lines      *Lines
	freezer    *freezer
	end        sync.Mutex // of the next two and what they say of the freezer
	deadline   int64      // the visa's end, nanoseconds of CLOCK_BOOTTIME
	frozen     bool
	recorder   *trace.Recorder // of a run in mode audit; nil: another mode
	home       string
	ready      chan struct{} // closed when broker is set
	armed      chan string   // one slot: the kernel holds the agent's rules and it has its wire, or why not
	settled    chan struct{} // one slot: raypherd has told what the kernel refused until it was asked
	broker     *broker.Broker
	static     int // the agent's first task, when Landlock alone decides on files; else 0
}

// Run serves one agent until its last process is gone. An error means that the agent must not go on, or never began; it was
// told to the runner if that still listened.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &warden{options: o, ready: make(chan struct{}), armed: make(chan string, 1), settled: make(chan struct{}, 1)}
	var out io.Writer = io.Discard
	if o.Output != nil {
		out = o.Output
	}
	w.lines = NewLines(out, o.JSON, o.Color)
	defer w.lines.Close()
	w.endSession = func() {}
	defer func() { w.endSession() }()
	launch, err := w.launch(ctx)
	if err != nil {
		return w.fail(err)
	}
	if err := errors.Join(w.prepare(), w.observe(launch)); err != nil {
		return w.fail(err)
	}
	defer w.freezer.close()
	if err := w.receiveFloor(); err != nil {
		return w.fail(err)
	}
	w.line = &line{
		connect: o.Connect, received: w.hear, broken: w.away,
		reattach: &attend.Reattach{AgentID: w.granted.AgentID, ConfirmationKey: w.key, Secret: w.granted.ReattachSecret},
		wake:     make(chan struct{}, 1), done: make(chan struct{}),
	}
	w.line.send(&attend.WardenMessage{Started: &attend.Started{}})
	close(w.ready)
	go w.line.run(ctx, w.session)
	go w.freezer.watch(w.expired)
	released := w.releaseTerminal(ctx, int(launch.RunnerPID))
	served := make(chan error, 1)
	go func() { served <- w.broker.Serve(ctx) }()
	if err := w.awaitArmed(ctx, served); err != nil {
		return w.fail(err)
	}
	if err := o.Runner.Send(Serving, nil); err != nil {
		return err
	}
	o.Runner.Close()
	err = <-served
	w.awaitLast()
	patience := lastTold
	if err != nil {
		patience = farewell // the agent may run on, and ends only with its warden
	}
	if lost := w.line.end(&attend.WardenMessage{Blocked: &attend.Blocked{Total: w.broker.Blocked()}}, patience); lost > 0 {
		w.lines.Say("%d verdicts did not reach raypherd", lost)
	}
	w.endTrace()
	if err == nil { // the program has ended: what is said at its end is still being said
		select {
		case <-released:
		case <-ctx.Done(): // told to end, with a program that may go on: raypherd ends it when this process is gone
		}
	}
	return err
}

// lastTold bounds how long raypherd may take to tell what the kernel refused an agent that has ended. It closes the connection behind
// that, which is a matter of milliseconds on a machine that has time.
const lastTold = 10 * time.Second

// armedWait is how long raypherd may take to arm the guard of files. It writes a few maps.
const armedWait = 30 * time.Second

// awaitArmed waits until the kernel holds the agent's rules for files, where it does, and until the agent has its wire, where it is isolated:
// before that, nothing may be executed.
func (w *warden) awaitArmed(ctx context.Context, served chan error) error {
	if isolated := w.permit.Network != nil && w.permit.Network.Isolate; !w.granted.FilesHeld && !isolated {
		return nil
	}
	select {
	case failed := <-w.armed:
		if failed != "" {
			return errors.New(failed)
		}
		return nil
	case err := <-served:
		served <- err
		return errors.New("the agent ended before its rules were in force")
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(armedWait):
		return errors.New("raypherd did not put the rules in force: the program is not executed")
	}
}

// farewell is how long a runner has to say why the agent cannot start, and to end with its own status: raypherd kills what is in the
// agent's cgroup, the runner too, when it sees the warden go.
const farewell = time.Second

// fail tells the runner why the agent cannot start.
func (w *warden) fail(err error) error {
	if errors.Is(err, errRunnerGone) {
		return nil
	}
	if w.options.Runner.Send(Failed, []byte(err.Error())) == nil {
		w.options.Runner.awaitEnd(farewell)
	}
	return err
}

// errRunnerGone: `raypher run` was ended before the agent began, and nothing is left to guard.
var errRunnerGone = errors.New("the runner has gone")

func (w *warden) receive(want Kind) (body []byte, fds []int, err error) {
	kind, body, fds, err := w.options.Runner.Receive()
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil, errRunnerGone
	case err != nil:
		return nil, nil, err
	case kind != want:
		return nil, nil, fmt.Errorf("the runner sent %q instead of %q", kind, want)
	}
	return body, fds, nil
}

// launch asks raypherd for the agent that the runner wants, and tells the runner what was granted.
func (w *warden) launch(ctx context.Context) (*attend.Launch, error) {
	// The session lives on under this context: it ends with it only when there is no launch.
	ctx, w.endSession = context.WithCancel(ctx)
	session, failed := w.options.Connect(ctx) // while the runner is still at its own work
	body, _, err := w.receive(Launch)
	if err != nil {
		return nil, err
	}
	var launch attend.Launch
	if err := json.Unmarshal(body, &launch); err != nil {
		return nil, fmt.Errorf("read the launch: %w", err)
	}
	if err := w.makeKey(); err != nil {
		return nil, err
	}
	launch.ConfirmationKey = w.key
	if failed != nil {
		return nil, failed
	}
	w.session = session
	if err := w.ask(&launch); err != nil {
		return nil, err
	}
	if body, err = attend.Marshal(w.granted); err != nil {
		return nil, fmt.Errorf("pass on the grant: %w", err)
	}
	return &launch, w.options.Runner.Send(Granted, body)
}

// expect passes on what raypherd expects to grant, and reads it itself, while the enclave decides.
func (w *warden) expect(terms *attend.Terms) error {
	body, err := attend.Marshal(terms)
	if err != nil {
		return fmt.Errorf("pass on the terms: %w", err)
	}
	if err := w.options.Runner.Send(Expected, body); err != nil {
		return err
	}
	_ = w.read(terms) // what is granted counts, and is read again if it is not the same
	return nil
}

// read reads the permit of the terms, unless that is done.
func (w *warden) read(terms *attend.Terms) error {
	if w.terms != nil && w.terms.Equal(terms) {
		return nil
	}
	permit, err := policy.ParseCanonical(terms.Permit)
	if err != nil {
		return fmt.Errorf("read the permit: %w", err)
	}
	w.terms, w.permit, w.resolved = terms, permit, floor.Resolved(permit)
	return nil
}

// prepare makes ready for the agent while the runner takes its floor.
func (w *warden) prepare() (err error) {
	if err := w.read(&w.granted.Terms); err != nil {
		return err
	}
	if w.cgroup, err = cgroupName(w.granted.Cgroup); err != nil {
		return err
	}
	if w.freezer, err = newFreezer(w.granted.Cgroup); err != nil {
		return err
	}
	return w.renew(w.granted.Visa, w.granted.ExpiresBoottimeNs)
}

// patience is how long an answer of raypherd may take before the warden looks whether somebody still waits for it. Most take a few
// milliseconds, and a thread that looks takes as much of every start as one of these.
const patience = 100 * time.Millisecond

// ask begins the session. Nobody waits for an answer any more when the runner has gone.
func (w *warden) ask(launch *attend.Launch) (err error) {
	answered := make(chan struct{})
	look := time.AfterFunc(patience, func() {
		if w.options.Runner.goneBefore(answered) {
			w.endSession()
		}
	})
	defer look.Stop()
	defer close(answered)
	w.granted, err = begin(w.session, launch, w.expect)
	return err
}

// makeKey makes the agent's key. It lives in this process alone, which nobody can look into.
func (w *warden) makeKey() error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the agent's key: %w", err)
	}
	w.key, err = visa.ConfirmationKey(&private.PublicKey)
	return err
}

// receiveFloor takes over the notifications.
func (w *warden) receiveFloor() error {
	body, fds, err := w.receive(Listener)
	if err != nil {
		return err
	}
	var f Floor
	if err := json.Unmarshal(body, &f); err != nil {
		return fmt.Errorf("read the floor: %w", err)
	}
	want := 1
	if f.VisaFile {
		want = 2
	}
	if len(fds) != want {
		return fmt.Errorf("the runner sent %d descriptors instead of %d", len(fds), want)
	}
	if f.VisaFile {
		w.pass.file = os.NewFile(uintptr(fds[1]), "visa")
	}
	if f.Static {
		w.static = f.Task
	}
	if err := w.tryRelay(f.Task); err != nil {
		return err
	}
	w.broker, err = broker.New(broker.Options{
		Listener: fds[0], Permit: w.resolved, Coverage: floor.Covers(f.Grants, f.Open),
		Closed: f.Closed, Sealed: f.Sealed, Devices: f.Devices, Cgroup: w.cgroup,
		VisaPath: w.granted.VisaPath, Visa: w.pass.get, AgentSocket: w.granted.AgentSocket,
		Relay: w.options.Relay, Relayed: w.relayed, Signals: f.Signals,
		Observe: w.observer(), Report: w.verdict, Count: w.count, Kill: w.kill, Ask: w.asked, Withdraw: w.withdrawn,
	})
	return err
}

// cgroupName turns the path of a cgroup folder into the name by which /proc/<pid>/cgroup shows it.
func cgroupName(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find the cgroup2 mount: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "cgroup2" {
			continue
		}
		if name, ok := strings.CutPrefix(path, fields[1]+"/"); ok {
			return "/" + name, nil
		}
	}
	return "", fmt.Errorf("%s lies in no cgroup2 mount", path)
}

// hear takes a message of raypherd. One at a time.
func (w *warden) hear(m *attend.ParentMessage) {
	var err error
	switch {
	case m.Granted != nil: // after Reattach
		err = errors.Join(w.narrow(m.Granted.Permit), w.renew(m.Granted.Visa, m.Granted.ExpiresBoottimeNs))
		w.lines.Say("raypherd is back")
		w.askAgain()
	case m.Renewed != nil:
		err = w.renew(m.Renewed.Visa, m.Renewed.ExpiresBoottimeNs)
	case m.Narrowed != nil:
		err = errors.Join(w.narrow(m.Narrowed.Permit), w.renew(m.Narrowed.Visa, m.Narrowed.ExpiresBoottimeNs))
	case m.Observed != nil:
		w.hearObserved(m.Observed)
	case m.Seen != nil:
		if v, decodeErr := journal.DecodeVerdict(m.Seen.Verdict); decodeErr == nil {
			w.lines.Verdict(v)
		}
	case m.Waits != nil:
		w.waits(m.Waits)
	case m.Answered != nil:
		w.broker.Answer(m.Answered.ID, broker.Answer{Approved: m.Answered.Approved, Until: m.Answered.UntilBoottimeNs})
	case m.Armed != nil:
		select {
		case w.armed <- m.Armed.Failed:
		default:
		}
	case m.Settled != nil:
		select {
		case w.settled <- struct{}{}:
		default:
		}
	case m.End != nil:
		w.lines.Say("raypherd ends the agent: %s", m.End.Reason)
	}
	if err != nil {
		w.lines.Say("%v", err)
	}
}

// away is called when raypherd cannot be heard any more. A private raypherd ends with its agent: that is nothing to tell.
func (w *warden) away(err error) {
	if w.broker.Over() || w.freezer.empty(w.granted.Cgroup) {
		return
	}
	w.observedAway()
	but := ""
	if w.relayed {
		but = ", but new programs are refused until it is back (kernel.yama.ptrace_scope)"
	}
	w.lines.Say("raypherd is away (%v): what was granted holds until the visa ends%s", err, but)
}

// renew puts a new visa in force.
func (w *warden) renew(raw []byte, deadline int64) error {
	if claims, err := visa.Read(raw); err == nil {
		w.visaID.Store(&claims.ID)
	}
	w.end.Lock()
	defer w.end.Unlock()
	if err := errors.Join(w.pass.set(raw), w.freezer.until(deadline)); err != nil {
		return err
	}
	w.deadline = deadline
	if w.frozen {
		w.frozen = false
		w.lines.Say("the visa was renewed: the agent goes on")
		return w.freezer.freeze(false)
	}
	return nil
}

// expired stops the agent at its visa's end, unless it was renewed while the timer was read.
func (w *warden) expired() {
	w.end.Lock()
	defer w.end.Unlock()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err == nil && now.Nano() < w.deadline {
		return
	}
	w.frozen = true
	if err := w.freezer.freeze(true); err != nil {
		w.lines.Say("%v", err)
		return
	}
	w.lines.Say("the visa has ended: the agent is frozen until raypherd renews it")
}

// narrow puts another permit in force. What does not lie within the permit of the launch grants nothing: a raypherd that was
// restarted takes its permits from files, and the warden opens files for the agent that no floor would let it open.
func (w *warden) narrow(raw []byte) error {
	<-w.ready
	permit, err := withinLaunch(w.permit, raw)
	if err != nil {
		permit = &policy.Policy{Mode: policy.Enforce, Filesystem: &policy.Filesystem{}}
		err = fmt.Errorf("the narrowed permit: %w: everything is refused", err)
	}
	w.broker.Replace(floor.Resolved(permit), !bytes.Equal(raw, w.granted.Permit))
	if w.static != 0 && !sameFiles(permit, w.permit) {
		w.lines.Say("the file rules of this run are static, and a narrower permit cannot be held: the agent ends")
		w.kill(w.static)
	}
	return err
}

// sameFiles reports whether two permits say the same of files.
func sameFiles(a, b *policy.Policy) bool {
	files := func(p *policy.Policy) []byte {
		if p.Filesystem == nil {
			return nil
		}
		section := *p.Filesystem
		section.Static = false
		return (&policy.Policy{Filesystem: &section}).Canonical()
	}
	return bytes.Equal(files(a), files(b))
}

// withinLaunch reads a permit that must lie within that of the launch: narrowing the one to the other must change nothing.
func withinLaunch(launch *policy.Policy, raw []byte) (*policy.Policy, error) {
	permit, err := policy.ParseCanonical(raw)
	if err != nil {
		return nil, err
	}
	narrowed, err := policy.Narrow(launch, permit)
	if err != nil {
		return nil, fmt.Errorf("it grants more than the launch: %w", err)
	}
	if !bytes.Equal(narrowed.Canonical(), raw) {
		return nil, errors.New("it leaves out what the permit of the launch says")
	}
	return permit, nil
}

// verdict takes a verdict of the broker.
func (w *warden) verdict(v journal.Verdict) {
	v.AgentID, v.Subject = w.granted.AgentID, w.granted.Subject
	if id := w.visaID.Load(); id != nil {
		v.VisaID = *id
	}
	w.lines.Verdict(v)
	raw, err := journal.EncodeVerdict(v)
	if err != nil {
		w.lines.Say("%v", err)
		return
	}
	w.line.send(&attend.WardenMessage{Reported: &attend.Reported{Verdict: raw}})
}

func (w *warden) count(operation string) {
	w.line.send(&attend.WardenMessage{Count: &attend.Count{ByOperation: map[string]uint64{operation: 1}}})
}

func (w *warden) kill(pid int) {
	if err := w.freezer.killAgent(w.granted.Cgroup, pid); err != nil {
		w.lines.Say("%v", err)
	}
}
