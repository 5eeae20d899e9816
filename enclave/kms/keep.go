package kms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/raypher/raypher/startconf"
)

// Times between calls. A secret is asked for again so that a key that was disabled, or a policy that was narrowed, ends its use within the
// hour; the value does not change, as the configuration holds its ciphertext.
const (
	refresh    = time.Hour
	firstRetry = 2 * time.Second
	lastRetry  = 5 * time.Minute
)

// ErrNoSecret: no secret of that name is held.
var ErrNoSecret = errors.New("no such secret from KMS")

// Secrets are those of a start configuration. Values are in memory and nowhere else. It is safe for concurrent use.
type Secrets struct {
	client *Client
	listed []startconf.KMSSecret
	log    *slog.Logger

	mu     sync.RWMutex
	values map[string][]byte
	failed map[string]error // why there is none, or why it was not confirmed
}

// NewSecrets prepares them; nothing is asked for before Run.
func NewSecrets(c *Client, listed []startconf.KMSSecret, log *slog.Logger) *Secrets {
	return &Secrets{client: c, listed: listed, log: log, values: make(map[string][]byte), failed: make(map[string]error)}
}

// Lists says whether a secret of the start configuration has this name, held or not.
func (s *Secrets) Lists(name string) bool {
	return slices.ContainsFunc(s.listed, func(l startconf.KMSSecret) bool { return l.Name == name })
}

// Secret returns a copy of a value, which the caller clears when it is done. The error wraps ErrNoSecret and says why there is none.
func (s *Secrets) Secret(name string) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if value, ok := s.values[name]; ok {
		return bytes.Clone(value), nil
	}
	if !s.Lists(name) {
		return nil, fmt.Errorf("%w: %.140q: no kms_secret of the start configuration has that name", ErrNoSecret, name)
	}
	if err := s.failed[name]; err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSecret, err)
	}
	return nil, fmt.Errorf("%w: %s was not fetched yet", ErrNoSecret, name)
}

// Names of what is held, sorted.
func (s *Secrets) Names() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.values))
}

// Run gets the secrets and asks for each again every hour, until ctx ends. What KMS refuses is forgotten; while KMS cannot be reached what is
// held stays.
func (s *Secrets) Run(ctx context.Context) {
	var each sync.WaitGroup
	for _, l := range s.listed {
		each.Go(func() {
			for wait := firstRetry; ctx.Err() == nil; {
				pause := refresh
				if s.ask(ctx, l) {
					wait = firstRetry
				} else {
					pause, wait = wait, min(2*wait, lastRetry)
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	each.Wait()
}

// ask asks for a secret, and says whether there was an answer.
func (s *Secrets) ask(ctx context.Context, l startconf.KMSSecret) bool {
	value, err := s.client.Decrypt(ctx, l)
	if ctx.Err() != nil {
		clear(value)
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.failed[l.Name]
	s.failed[l.Name] = err
	switch {
	case err == nil:
		clear(s.values[l.Name])
		s.values[l.Name] = value
		return true
	case errors.Is(err, ErrRefused):
		clear(s.values[l.Name])
		delete(s.values, l.Name)
		s.log.Error("a secret is forgotten", "name", l.Name, "reason", err)
		return true
	case before == nil || before.Error() != err.Error(): // said once
		s.log.Warn("no answer from KMS, asking again", "name", l.Name, "reason", err)
	}
	return false
}
