package alerts

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/cost"
)

// body is what a message says, in the form that Standard Webhooks recommend.
type body struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      any       `json:"data"`
}

type threshold struct {
	Level            string      `json:"level"` // host | namespace | agent | run
	Name             string      `json:"name"`
	Month            string      `json:"month"`
	ThresholdPercent uint64      `json:"threshold_percent"`
	BudgetUSD        cost.Amount `json:"budget_usd"`
	SpentUSD         cost.Amount `json:"spent_usd"`
	HeldUSD          cost.Amount `json:"held_usd"`
	LostUSD          cost.Amount `json:"lost_usd"`
}

type alarmed struct {
	Request string `json:"request"`
	Words   string `json:"words"`
	Lost    uint64 `json:"lost,omitempty"` // alarms that found no room before
}

// message is one that is not delivered yet.
type message struct {
	ID      string `json:"id"`
	Webhook string `json:"webhook"`
	Secret  string `json:"secret"` // name of the key; empty: it is not signed
	CA      string `json:"ca,omitempty"`
	Body    []byte `json:"body"`
	Made    int64  `json:"made"` // Unix seconds
	Tries   int    `json:"tries"`

	next time.Time // when it is tried; of this process
}

// delivered is how an attempt went.
type delivered struct {
	id  string
	err error
}

// enqueue adds a message. Where there is no room it is lost, and the log has it.
func (a *Alerts) enqueue(to cost.Alert, b body) {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // texts, numbers and times alone
	}
	if len(a.kept.Pending) >= MaxPending {
		a.opts.Log.Error("a message is lost: too many wait to be delivered", "receiver", hostOf(to.Webhook), "type", b.Type, "pending", MaxPending)
		return
	}
	a.kept.Pending = append(a.kept.Pending, &message{ID: "msg_" + rand.Text(), Webhook: to.Webhook, Secret: to.Secret, CA: to.CA, Body: text, Made: a.opts.Now().Unix()})
}

// deliver begins what is due, and returns when something is due next.
func (a *Alerts) deliver(ctx context.Context) time.Duration {
	now, wait := a.opts.Now(), each
	for _, m := range a.kept.Pending {
		switch due := m.next.Sub(now); {
		case a.flying[m.ID]:
		case due > 0:
			wait = min(wait, due)
		case len(a.flying) < maxInFlight:
			a.flying[m.ID] = true
			attempt := *m
			go func() { a.finished <- delivered{attempt.ID, a.send(ctx, &attempt)} }() // there is room for as many as fly
		}
	}
	return wait
}

// settle takes a delivered message off, or says when it is tried again.
func (a *Alerts) settle(d delivered) {
	delete(a.flying, d.id)
	i := slices.IndexFunc(a.kept.Pending, func(m *message) bool { return m.ID == d.id })
	if i < 0 {
		return
	}
	m, now := a.kept.Pending[i], a.opts.Now()
	m.Tries++
	switch old := now.Sub(time.Unix(m.Made, 0)) > giveUpAfter; {
	case d.err == nil:
		a.opts.Log.Info("a message was delivered", "receiver", hostOf(m.Webhook), "id", m.ID, "tries", m.Tries)
		a.kept.Pending = slices.Delete(a.kept.Pending, i, i+1)
	case old:
		a.opts.Log.Error("a message is given up", "receiver", hostOf(m.Webhook), "id", m.ID, "tries", m.Tries, "reason", d.err)
		a.kept.Pending = slices.Delete(a.kept.Pending, i, i+1)
	default:
		m.next = now.Add(min(lastRetry, a.opts.Retry<<min(m.Tries-1, 16)))
		a.opts.Log.Warn("a message was not delivered, trying again", "receiver", hostOf(m.Webhook), "id", m.ID, "tries", m.Tries, "reason", d.err)
		return // what is kept is the same but for the number of tries
	}
	a.write()
}

// hostOf is what of a webhook may stand in a log: its path may be a secret.
func hostOf(webhook string) string {
	u, err := url.Parse(webhook)
	if err != nil {
		return "?"
	}
	return u.Host
}

// transport makes one connection, on which TLS begins here.
func (a *Alerts) transport(m *message) (*http.Transport, error) {
	roots, err := cost.Authorities(m.CA)
	if err != nil {
		return nil, err
	}
	if roots == nil {
		roots = a.opts.Roots
	}
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			conn, err := a.opts.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(conn, &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12})
			if err := secure.HandshakeContext(ctx); err != nil {
				conn.Close()
				return nil, err
			}
			return secure, nil
		},
		DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
	}, nil
}

// send tries once. An answer that is no 2xx is a failure, a redirect too.
func (a *Alerts) send(ctx context.Context, m *message) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Webhook, bytes.NewReader(m.Body))
	if err != nil {
		return errors.New("the webhook is no URL")
	}
	at := strconv.FormatInt(a.opts.Now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "raypher")
	request.Header.Set("Webhook-Id", m.ID)
	request.Header.Set("Webhook-Timestamp", at)
	if m.Secret != "" {
		key, ok := a.opts.Key(m.Secret)
		if !ok {
			return fmt.Errorf("key %s: %w", m.Secret, errNoKey)
		}
		request.Header.Set("Webhook-Signature", Sign(key, m.ID, at, m.Body))
	}
	transport, err := a.transport(m)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(request) // follows no redirects
	if err != nil {
		return withoutURL(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("it answered %d", answer.StatusCode)
	}
	return nil
}

// withoutURL takes the URL out of an error.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// keyPrefix begins keys in the form of Standard Webhooks: what follows is base64. Other keys are taken as they are.
const keyPrefix = "whsec_"

// Sign returns the value of webhook-signature.
func Sign(key, id, timestamp string, body []byte) string {
	raw := []byte(key)
	if text, ok := strings.CutPrefix(key, keyPrefix); ok {
		if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
			raw = decoded
		}
	}
	h := hmac.New(sha256.New, raw)
	fmt.Fprintf(h, "%s.%s.%s", id, timestamp, body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}
