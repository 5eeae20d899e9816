package enclave

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/alerts"
	"github.com/raypher/raypher/enclave/gateway"
	"github.com/raypher/raypher/enclave/ledger"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// maxObserved is how many observations wait for one that reads slowly.
const maxObserved = 1024

// openAlerts prepares what tells people of budgets and alarms. It asks the ledger, which may be opened later.
func (s *Server) openAlerts() (err error) {
	s.watch.all = map[*observer]struct{}{}
	s.alerts, err = alerts.New(alerts.Options{
		State: s.opts.State, Report: func(namespace, agent, run string) ledger.Report {
			return s.spends.Ledger().Report(namespace, agent, run)
		},
		Control: func() (*cost.Control, error) { return s.spends.Control() }, Key: s.secrets.Secret, Dial: s.dialWebhook, Roots: gateway.PublicRoots(), Log: s.opts.Log,
		Notice: func(kind, words string) {
			s.watch.tell(&enclavev1.Observation{Notice: &enclavev1.Notice{Kind: kind, Words: words, Unix: time.Now().Unix()}})
		},
	})
	return err
}

// ended is told of each call of a model that ended. It does not wait for anybody.
func (s *Server) ended(r gateway.Record) {
	if r.Run.Run != "" && r.Outcome != gateway.OutcomeFree {
		refused := ""
		if r.Refusal == ledger.Budget {
			refused = r.Cap
		}
		s.alerts.Called(r.Run.Namespace, r.Run.Agent, r.Run.Run, r.Run.Budget, refused)
	}
	u := r.Usage
	s.watch.tell(&enclavev1.Observation{Call: &enclavev1.CallRecord{
		Namespace: r.Run.Namespace, Agent: r.Run.Agent, Run: r.Run.Run, Provider: r.Provider, Kind: r.Kind, Model: r.Model, Stream: r.Stream,
		Outcome: r.Outcome, Refusal: r.Refusal, Cap: r.Cap, Status: uint32(r.Status), Worst: uint64(r.Worst), Cost: uint64(r.Cost),
		Input: uint64(u.Input), CacheRead: uint64(u.CacheRead), CacheWrite: uint64(u.CacheWrite + u.CacheWrite1h), Output: uint64(u.Output), Reasoning: uint64(u.Reasoning),
		BegunUnixNano: r.Begun.UnixNano(), ReservingNanos: uint64(r.Reserving), FirstByteNanos: uint64(r.FirstByte), LastedNanos: uint64(r.Lasted), SettlingNanos: uint64(r.Settling),
		Said: r.Said, Disagreement: r.Disagreement,
	}})
}

// waits is told of a call that waits for an operator's top-up: for whom waits, it is as good as refused.
func (s *Server) waits(c *ledger.Call, reason error) {
	level := ledger.LevelName(ledger.Host) // of the grant
	var of *ledger.Refusal
	if errors.As(reason, &of) {
		level = of.Level
	}
	s.alerts.Called(c.Namespace, c.Agent, c.Run, c.Budget, level)
	words := fmt.Sprintf("a call of %s/%s waits for a top-up: %v", c.Namespace, c.Agent, reason)
	s.watch.tell(&enclavev1.Observation{Notice: &enclavev1.Notice{Kind: alerts.Alert, Words: words, Unix: time.Now().Unix()}})
}

// dialWebhook connects to a webhook of the cost control in force, and to nothing else.
func (s *Server) dialWebhook(ctx context.Context, _, address string) (net.Conn, error) {
	if !slices.Contains(s.webhooks(), address) {
		return nil, fmt.Errorf("dial %.300s: no webhook of the cost control in force is there", address)
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	return s.dial.DialCarried(ctx, host, uint16(port))
}

// webhooks are where those of the cost control in force are, each once.
func (s *Server) webhooks() (all []string) {
	control, err := s.spends.Control()
	if err != nil {
		return nil
	}
	for _, alert := range control.Alerts {
		if address, err := alert.Address(); err == nil && !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	return all
}

// observers are those who count what happens.
type observers struct {
	mu  sync.Mutex
	all map[*observer]struct{}
}

type observer struct {
	seen chan *enclavev1.Observation
	lost uint64 // of the holder of observers.mu
}

// tell hands an observation to whoever has room for it.
func (o *observers) tell(m *enclavev1.Observation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for of := range o.all {
		one := m
		if of.lost > 0 {
			one = &enclavev1.Observation{Call: m.Call, Notice: m.Notice, Lost: of.lost}
		}
		select {
		case of.seen <- one:
			of.lost = 0
		default:
			of.lost++
		}
	}
}

// Observe implements the service.
func (s *Server) Observe(_ *enclavev1.ObserveRequest, stream enclavev1.Enclave_ObserveServer) error {
	of := &observer{seen: make(chan *enclavev1.Observation, maxObserved)}
	s.watch.mu.Lock()
	s.watch.all[of] = struct{}{}
	s.watch.mu.Unlock()
	defer func() {
		s.watch.mu.Lock()
		defer s.watch.mu.Unlock()
		delete(s.watch.all, of)
	}()
	for {
		select {
		case m := <-of.seen:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
