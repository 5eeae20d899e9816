// Package alerts tells people, by webhook, that a share of a budget is used, and what the ledger alarms about. The enclave sends the
// messages itself: TLS begins in it and they are signed with a key that it holds, so the parent can hold one back and cannot make one up.
//
// A message is signed as Standard Webhooks have it (standardwebhooks.com): webhook-id, webhook-timestamp and webhook-signature, which is
// "v1," and the base64 of HMAC-SHA256 over ID.TIMESTAMP.BODY.
//
// Each share of each cap is told once in a month, to each webhook that asks for it; a cap that is raised is another cap. What was told, and what
// is not delivered yet, is kept in the state folder. A message whose answer was lost comes again under the same id. Nothing here blocks whoever calls, and nobody waits for a receiver.
package alerts

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/ledger"
)

// Bounds.
const (
	MaxPending  = 256 // messages that are not delivered yet
	MaxTold     = 1 << 14
	maxQueue    = 1024 // calls and alarms that are to be looked at
	maxInFlight = 4    // deliveries at once
	attemptTime = 20 * time.Second
	giveUpAfter = 24 * time.Hour
	firstRetry  = 5 * time.Second
	lastRetry   = time.Hour
	// each is how long after a change that nobody tells of, such as another cost control, thresholds are looked at.
	each = time.Minute
)

// Kinds of notices.
const (
	Alert = "alert"
	Alarm = "alarm"
)

// Options of New.
type Options struct {
	State string // the enclave's folder
	// Report says how the caps above a run stand, or all of them; see ledger.Ledger.Report.
	Report  func(namespace, agent, run string) ledger.Report
	Control func() (*cost.Control, error)           // in force
	Key     func(name string) (key string, ok bool) // that signs
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Roots   *x509.CertPool // for webhooks that name no authorities; nil: the system's
	// Notice is told, besides the log; it must not block. nil: nobody.
	Notice func(kind, words string)
	Log    *slog.Logger
	Now    func() time.Time // nil: time.Now
	Retry  time.Duration    // 0: firstRetry; tests are more impatient
}

// Alerts are those of one enclave. Called and Alarmed are safe for concurrent use.
type Alerts struct {
	opts   Options
	events chan event
	began  chan ledger.Report
	missed atomic.Bool // a call found no room: look at everything
	lost   atomic.Uint64

	// Of the goroutine of Run.
	kept     kept
	nothing  bool            // was kept, as at the first start, or where nothing of an enclave outlives it
	known    map[string]bool // kept.Told
	flying   map[string]bool // ids of messages that are being delivered
	finished chan delivered
}

// event is a call that ended, or an alarm.
type event struct {
	call  call
	alarm *ledger.Alarm
}

// call is one whose caps may have passed a threshold.
type call struct {
	namespace, agent, run string
	budget                *cost.Amount // of the run, where it was started with one
	refused               string       // level of the cap whose budget refused it; empty: none
}

// New reads what is kept. Run makes it work.
func New(o Options) (*Alerts, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Retry == 0 {
		o.Retry = firstRetry
	}
	if o.Notice == nil {
		o.Notice = func(string, string) {}
	}
	a := &Alerts{
		opts: o, events: make(chan event, maxQueue), flying: map[string]bool{}, known: map[string]bool{},
		began: make(chan ledger.Report, 1), finished: make(chan delivered, maxInFlight),
	}
	if err := a.read(); err != nil {
		return nil, err
	}
	return a, nil
}

// Called tells that a call of a run ended, or was refused by the budget of a cap (its level). It never waits.
func (a *Alerts) Called(namespace, agent, run string, budget *cost.Amount, refused string) {
	select {
	case a.events <- event{call: call{namespace, agent, run, budget, refused}}:
	default:
		a.missed.Store(true)
	}
}

// Alarmed tells of an alarm of the ledger. It never waits and does not call the ledger.
func (a *Alerts) Alarmed(alarm ledger.Alarm) {
	select {
	case a.events <- event{alarm: &alarm}:
	default:
		a.lost.Add(1)
	}
}

// Began tells that the ledger knows its journal now, and how everything stands, before the first call ends. It never waits.
func (a *Alerts) Began() {
	select {
	case a.began <- a.opts.Report("", "", ""):
	default:
	}
}

// Run looks at thresholds and delivers messages, until ctx ends.
func (a *Alerts) Run(ctx context.Context) {
	tick := time.NewTicker(each)
	defer tick.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			for len(a.flying) > 0 {
				a.settle(<-a.finished)
			}
			return
		case report := <-a.began:
			a.begin(report)
		case e := <-a.events:
			select {
			case report := <-a.began: // which was before
				a.begin(report)
			default:
			}
			if e.alarm != nil {
				a.alarm(*e.alarm)
			} else {
				a.look(e.call)
			}
		case d := <-a.finished:
			a.settle(d)
		case <-tick.C:
			a.lookAtAll()
		case <-retry.C:
		}
		if a.missed.Swap(false) {
			a.lookAtAll()
		}
		retry.Reset(a.deliver(ctx))
	}
}

// control is nil where none is in force, or one without alerts.
func (a *Alerts) control() *cost.Control {
	c, err := a.opts.Control()
	if err != nil || len(c.Alerts) == 0 {
		return nil
	}
	return c
}

func (a *Alerts) look(c call) {
	control := a.control()
	if control == nil {
		return
	}
	report := a.opts.Report(c.namespace, c.agent, c.run)
	for i := range report.Accounts {
		account := &report.Accounts[i]
		if b := c.budget; account.Level == ledger.Run && b != nil && (account.Limits.Budget == nil || *b < *account.Limits.Budget) {
			account.Limits.Budget = b
		}
	}
	a.compare(control, report, c.refused, false)
}

func (a *Alerts) lookAtAll() {
	if control := a.control(); control != nil {
		a.compare(control, a.opts.Report("", "", ""), "", false)
	}
}

// begin takes what the journal adds up to. Where nothing was kept, what was passed before is taken for told.
func (a *Alerts) begin(report ledger.Report) {
	silent := a.nothing
	a.nothing = false
	if control := a.control(); control != nil {
		a.compare(control, report, "", silent)
	}
	a.write()
}

// compare tells of each threshold that an account has passed. What cannot be spent any more counts: what was charged, and what nobody can account
// for. Where a part is used and a call is refused for the rest, the whole is used.
func (a *Alerts) compare(control *cost.Control, report ledger.Report, refused string, silent bool) {
	if report.Unread {
		return // balances are not known yet
	}
	changed := a.month(report.Period)
	for _, account := range report.Accounts {
		if account.Limits.Budget == nil {
			continue
		}
		used, budget := uint64(account.Spent)+uint64(account.Lost), uint64(*account.Limits.Budget)
		for _, alert := range control.Alerts {
			high, share := bits.Mul64(used, 100)
			refuses := alert.At == 100 && refused == ledger.LevelName(account.Level)
			if used == 0 || high == 0 && share < budget*alert.At && !refuses { // a budget is below 2^53
				continue
			}
			key := toldKey(account, alert)
			if a.known[key] || len(a.kept.Told) >= MaxTold {
				continue
			}
			a.known[key] = true
			a.kept.Told = append(a.kept.Told, key)
			changed = true
			if !silent {
				a.tell(alert, account, report.Period)
			}
		}
	}
	if changed {
		a.write()
	}
}

func toldKey(account ledger.Account, alert cost.Alert) string {
	return ledger.LevelName(account.Level) + " " + account.Name + " " + strconv.FormatUint(uint64(*account.Limits.Budget), 10) + " " + strconv.FormatUint(alert.At, 10) + " " + alert.Webhook
}

// tell makes the message that a share of a cap is used.
func (a *Alerts) tell(alert cost.Alert, account ledger.Account, period string) {
	who := ledger.LevelName(account.Level)
	if account.Name != "" {
		who += " " + account.Name
	}
	words := fmt.Sprintf("%d%% of the budget of %s: %s of %s dollars spent", alert.At, who, account.Spent, *account.Limits.Budget)
	a.opts.Log.Warn("a share of a budget is used", "cap", who, "threshold_percent", alert.At, "spent_usd", account.Spent.String(), "budget_usd", account.Limits.Budget.String(), "month", period)
	a.opts.Notice(Alert, words)
	a.enqueue(alert, body{
		Type: "spending.threshold", Timestamp: a.opts.Now().UTC(),
		Data: threshold{
			Level: ledger.LevelName(account.Level), Name: account.Name, Month: period, ThresholdPercent: alert.At, BudgetUSD: *account.Limits.Budget,
			SpentUSD: account.Spent, HeldUSD: account.Held, LostUSD: account.Lost,
		},
	})
}

// alarm tells every webhook.
func (a *Alerts) alarm(alarm ledger.Alarm) {
	a.opts.Notice(Alarm, alarm.Words)
	control := a.control()
	if control == nil {
		return
	}
	var sent []cost.Alert
	before := len(a.kept.Pending)
	for _, alert := range control.Alerts {
		alert.At = 0
		if slices.Contains(sent, alert) {
			continue
		}
		sent = append(sent, alert)
		a.enqueue(alert, body{
			Type: "ledger.alarm", Timestamp: a.opts.Now().UTC(), Data: alarmed{Request: alarm.ID.String(), Words: alarm.Words, Lost: a.lost.Swap(0)},
		})
	}
	if len(a.kept.Pending) > before {
		a.write()
	}
}

// errNoKey: the key that signs is not held.
var errNoKey = errors.New("the enclave does not hold the key that signs: raypher keys add")
