package alerts_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/alerts"
	"github.com/raypher/raypher/enclave/ledger"
)

// got is a message that a receiver was sent.
type got struct {
	id, timestamp, signature string
	raw                      []byte
	Type                     string
	Data                     map[string]any
}

// receiver is a real one, with TLS.
type receiver struct {
	*httptest.Server
	messages chan got
	mu       sync.Mutex
	answers  []int // the next ones; then 204
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{messages: make(chan got, 1024)}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		m := got{id: request.Header.Get("webhook-id"), timestamp: request.Header.Get("webhook-timestamp"), signature: request.Header.Get("webhook-signature"), raw: body}
		if err == nil {
			err = json.Unmarshal(body, &m)
		}
		if err != nil || request.URL.Path != "/hook" {
			t.Errorf("%s %q, %v", request.URL, body, err)
		}
		r.mu.Lock()
		status := http.StatusNoContent
		if len(r.answers) > 0 {
			status, r.answers = r.answers[0], r.answers[1:]
		}
		r.mu.Unlock()
		w.WriteHeader(status)
		r.messages <- m
	}))
	r.Config.ErrorLog = log.New(io.Discard, "", 0) // of connections that a restart cut off
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

// world is alerts on balances that the test sets.
type world struct {
	*testing.T
	*receiver
	state    string
	control  *cost.Control
	key      string
	mu       sync.Mutex
	report   ledger.Report
	notices  chan string
	log      bytes.Buffer
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	alerts   *alerts.Alerts
	stop     func()
	expected int             // messages that the test has seen
	seen     map[string]bool // ids; an answer that a restart cut off is asked for again
	repeats  bool            // it looks at those
}

func newWorld(t *testing.T, lines string) *world {
	t.Helper()
	w := &world{T: t, seen: map[string]bool{}, receiver: newReceiver(t), state: t.TempDir(), key: "whsec_" + base64.StdEncoding.EncodeToString([]byte("a key of the receiver")), notices: make(chan string, 1024)}
	text := strings.ReplaceAll("version: 1\ntime_zone: UTC\nmonthly_budget_usd: 10\n"+lines, "HOOK", "https://example.com/hook")
	var err error
	if w.control, err = cost.Parse("cost_control.yaml", []byte(text)); err != nil {
		t.Fatal(err)
	}
	w.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, w.Listener.Addr().String())
	}
	w.report = ledger.Report{Period: "2026-11"}
	return w
}

// start is a start of the enclave.
func (w *world) start() {
	w.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(w.Certificate()) // for example.com
	a, err := alerts.New(alerts.Options{
		State: w.state, Roots: roots, Log: slog.New(slog.NewTextHandler(&w.log, nil)), Retry: time.Millisecond,
		Report: func(string, string, string) ledger.Report {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.report
		},
		Control: func() (*cost.Control, error) { return w.control, nil },
		Key:     func(name string) (string, bool) { return w.key, name == "hook" && w.key != "" },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return w.dial(ctx, network, address)
		},
		Notice: func(kind, words string) { w.notices <- kind + ": " + words },
	})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	a.Began()
	run.Go(func() { a.Run(ctx) })
	w.alerts, w.stop = a, sync.OnceFunc(func() { cancel(); run.Wait() })
	w.Cleanup(w.stop)
}

// stands sets the balance of the host and of one run, in dollars, and tells that a call ended.
func (w *world) stands(host, run string, refused string) {
	w.Helper()
	amount := func(s string) cost.Amount {
		a, err := cost.ParseAmount(s)
		if err != nil {
			w.Fatal(err)
		}
		return a
	}
	limits := w.control.Limits("n", "a")
	w.mu.Lock()
	w.report.Accounts = []ledger.Account{
		{Level: ledger.Host, Limits: limits[0], Balance: ledger.Balance{Spent: amount(host)}},
		{Level: ledger.Run, Name: "n/a/r", Limits: limits[3], Balance: ledger.Balance{Spent: amount(run)}},
	}
	w.mu.Unlock()
	w.alerts.Called("n", "a", "r", nil, refused)
}

// is waits for a message, alarms apart, and holds what it says of which cap, and its signature.
func (w *world) is(want string) got {
	w.Helper()
	w.expected++
	for {
		select {
		case m := <-w.messages:
			if m.Type == "ledger.alarm" || w.seen[m.id] && !w.repeats {
				continue
			}
			w.seen[m.id] = true
			if said := fmt.Sprint(m.Type, " ", m.Data["level"], " ", m.Data["threshold_percent"]); said != want {
				w.Errorf("%s, want %s", said, want)
			}
			mac := hmac.New(sha256.New, []byte("a key of the receiver"))
			fmt.Fprintf(mac, "%s.%s.%s", m.id, m.timestamp, m.raw)
			if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); m.signature != want || m.id == "" {
				w.Errorf("id %q, signature %q, want %q", m.id, m.signature, want)
			}
			return m
		case <-time.After(time.Minute):
			w.Fatalf("no message %s\n%s", want, w.log.String())
		}
	}
}

// quiet holds that nothing was told but what the test has seen: notices are in order.
func (w *world) quiet() {
	w.Helper()
	w.alerts.Alarmed(ledger.Alarm{Words: "the end"})
	told := []string{}
	for notice := range w.notices {
		if notice == "alarm: the end" {
			break
		}
		told = append(told, notice)
	}
	if len(told) != w.expected {
		w.Errorf("told: %q, seen: %d", told, w.expected)
	}
	w.expected = 0
}

const one = "alerts: [{at: 80%, webhook: HOOK, secret: hook}, {at: 100%, webhook: HOOK, secret: hook}]\nper_run: {budget_usd: 5}\n"

// TestThresholdsAreToldOnce: each share of each cap once in a month, and across restarts; another month begins anew.
func TestThresholdsAreToldOnce(t *testing.T) {
	w := newWorld(t, one)
	w.start()
	w.stands("7.999999", "0", "")
	w.stands("7.999999", "0", "run") // a call that costs more than there ever was
	w.quiet()
	w.stands("8", "0", "")
	if m := w.is("spending.threshold host 80"); m.Data["budget_usd"] != "10.00" || m.Data["spent_usd"] != "8.00" || m.Data["month"] != "2026-11" {
		t.Errorf("%v", m.Data)
	}
	if notice := <-w.notices; notice != "alert: 80% of the budget of host: 8.00 of 10.00 dollars spent" {
		t.Errorf("%q", notice)
	}
	w.expected = 0
	w.stands("9", "4.50", "")
	w.is("spending.threshold run 80")
	w.quiet()
	w.stop()
	w.start()
	w.stands("9.50", "4.60", "")
	w.quiet()
	w.stands("9.60", "4.60", "run") // refused: there is no more to be had
	w.is("spending.threshold run 100")
	w.stands("10", "4.60", "run")
	w.is("spending.threshold host 100")
	w.quiet()
	w.mu.Lock()
	w.report.Period = "2026-12"
	w.mu.Unlock()
	w.stands("8", "4.60", "")
	w.is("spending.threshold host 80") // the run's budget is for its life
	w.quiet()
}

// TestRetries: what a receiver does not take is tried again under the same id, also after a restart; nothing unsigned leaves where a key is named, and
// no webhook's path stands in the log.
func TestRetries(t *testing.T) {
	w := newWorld(t, one)
	w.answers, w.repeats = []int{500, 302, 404}, true
	w.start()
	w.stands("8", "0", "")
	first := w.is("spending.threshold host 80")
	for range 3 {
		w.expected--
		if again := w.is("spending.threshold host 80"); again.id != first.id {
			t.Errorf("another id: %s, %s", first.id, again.id)
		}
	}
	w.quiet()
	w.repeats = false
	failing := make(chan struct{}, 1024)
	reach := w.dial
	w.stop()
	w.dial = func(context.Context, string, string) (net.Conn, error) {
		failing <- struct{}{}
		return nil, net.ErrClosed
	}
	w.start()
	w.stands("8", "4", "")
	<-failing
	<-failing
	w.stop()
	w.dial, w.key = reach, ""
	w.start()
	w.stop()
	w.key = "whsec_" + base64.StdEncoding.EncodeToString([]byte("a key of the receiver"))
	w.start()
	w.is("spending.threshold run 80")
	w.quiet()
	w.stop()
	if strings.Contains(w.log.String(), "/hook") {
		t.Errorf("the log has the webhook's path:\n%s", w.log.String())
	}
}

// TestNothingKept: where nothing was kept, as after the restart of an enclave whose folder is its memory, what was passed before is not told again.
func TestNothingKept(t *testing.T) {
	w := newWorld(t, one)
	w.start()
	w.stands("8", "0", "")
	w.is("spending.threshold host 80")
	w.stop()
	w.state = t.TempDir()
	w.start()
	w.stands("9", "0", "")
	w.quiet()
	w.stands("10", "0", "")
	w.is("spending.threshold host 100")
}

// TestNobodyWaits: a receiver that never answers and floods of calls and alarms hold nobody up.
func TestNobodyWaits(t *testing.T) {
	w := newWorld(t, one)
	w.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w.start()
	w.stands("8", "0", "")
	for range 20_000 {
		w.alerts.Called("n", "a", "r", nil, "")
		w.alerts.Alarmed(ledger.Alarm{Words: "again"})
	}
	w.stop() // ends although deliveries are under way
}

func TestUnsigned(t *testing.T) {
	w := newWorld(t, strings.ReplaceAll(one, ", secret: hook", ""))
	w.start()
	w.stands("8", "0", "")
	if m := <-w.messages; m.signature != "" || m.id == "" {
		t.Errorf("%+v", m)
	}
}
