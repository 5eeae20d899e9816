package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
)

// Bounds of what a controller can make an enclave keep.
const (
	MaxSecrets = 1024
	// MaxBytes of all values together: a tenth of what the process may use.
	MaxBytes  = 24 << 20
	maxFetchs = 64 // calls in a row, as long as each brings something
)

// ErrNoSecret: no secret of that name is held.
var ErrNoSecret = errors.New("no such secret")

// secret is one value. It does not change; a new version takes its place.
type secret struct {
	version uint64
	expires int64 // Unix seconds; 0: never
	value   []byte
}

func (s *secret) over(now time.Time) bool { return s.expires != 0 && now.Unix() >= s.expires }

// Secret returns a copy of a value, which the caller clears when it is done. The error wraps ErrNoSecret.
func (c *Client) Secret(name string) ([]byte, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := c.secrets[name]
	if s == nil {
		return nil, fmt.Errorf("%w: %.140q: an operator makes it with `raypher fleet secret put`, and grants it to this host", ErrNoSecret, name)
	}
	if s.over(c.opts.wall()) {
		return nil, fmt.Errorf("%w: %s expired at %s", ErrNoSecret, name, time.Unix(s.expires, 0).UTC().Format(time.RFC3339))
	}
	return bytes.Clone(s.value), nil
}

// names of what is held, sorted; c.mu is held.
func (c *Client) names() []string { return slices.Sorted(maps.Keys(c.secrets)) }

// purge forgets what expired.
func (c *Client) purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range c.secrets {
		if s.over(c.opts.wall()) {
			c.forget(name)
		}
	}
}

// forget wipes a value; c.mu is held.
func (c *Client) forget(name string) {
	if s := c.secrets[name]; s != nil {
		clear(s.value)
		delete(c.secrets, name)
	}
}

func (c *Client) holding() []*controllerv1.HeldSecret {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []*controllerv1.HeldSecret
	for _, name := range c.names() {
		out = append(out, &controllerv1.HeldSecret{Name: name, Version: c.secrets[name].version})
	}
	return out
}

// fetchSecrets brings what is held up to date, and says to the controller what that is when it changed.
func (c *Client) fetchSecrets(ctx context.Context, h *held) error {
	if h.recipient == nil {
		var err error
		if h.recipient, h.signed, err = c.recipientFor(ctx, h); err != nil {
			return err
		}
		h.unsaid = true
	}
	for range maxFetchs {
		request := &controllerv1.FetchSecretsRequest{Result: h.token, Recipient: h.signed, Held: c.holding()}
		calling, cancel := context.WithTimeout(ctx, CallTimeout)
		reply, err := c.secretsOf.Fetch(calling, request)
		cancel()
		if err != nil {
			return c.orNone(fmt.Errorf("fetch secrets: %w", err))
		}
		changed, err := c.take(reply, h)
		h.unsaid = h.unsaid || changed
		if err != nil {
			return fmt.Errorf("fetch secrets: %w", err)
		}
		if !changed {
			break
		}
	}
	if !h.unsaid {
		return nil
	}
	calling, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	if _, err := c.secretsOf.Acknowledge(calling, &controllerv1.AcknowledgeSecretsRequest{Held: c.holding()}); err != nil {
		return fmt.Errorf("acknowledge secrets: %w", err)
	}
	h.unsaid = false
	return nil
}

// orNone is nil for a controller that serves no such thing.
func (c *Client) orNone(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	return err
}

// take opens what came. What does not open is an error; the rest is kept nevertheless.
func (c *Client) take(reply *controllerv1.FetchSecretsReply, h *held) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range reply.GetGone() {
		if c.secrets[name] != nil {
			c.opts.Log.Info("a secret is gone", "name", name)
			c.forget(name)
			changed = true
		}
	}
	for _, sealed := range reply.GetSecrets() {
		took, openErr := c.open(sealed, h)
		changed, err = changed || took, errors.Join(err, openErr)
	}
	return changed, err
}

// open puts one secret in its place; c.mu is held.
func (c *Client) open(sealed *controllerv1.SealedSecret, h *held) (bool, error) {
	name, version := sealed.GetName(), sealed.GetVersion()
	old := c.secrets[name]
	s := &secret{version: version, expires: sealed.GetExpiresUnix()}
	switch {
	case old != nil && version == old.version, s.over(c.opts.wall()):
		return false, nil
	case old != nil && version < old.version:
		return false, fmt.Errorf("secret %.140q came in version %d, version %d is held: versions only go upwards", name, version, old.version)
	case old == nil && len(c.secrets) >= MaxSecrets:
		return false, fmt.Errorf("more than %d secrets", MaxSecrets)
	}
	label := recipient.Label{Name: name, Version: version, Host: h.result.Host, Expires: s.expires}
	var err error
	if s.value, err = h.recipient.Open(label, sealed.GetEncapsulated(), sealed.GetCiphertext()); err != nil {
		return false, err
	}
	total := len(s.value)
	for other, kept := range c.secrets {
		if other != name {
			total += len(kept.value)
		}
	}
	if total > MaxBytes {
		clear(s.value)
		return false, fmt.Errorf("secrets of more than %d bytes together", MaxBytes)
	}
	c.forget(name)
	c.secrets[name] = s
	c.opts.Log.Info("a secret came", "name", name, "version", version)
	return true, nil
}

// fetchCeiling installs what is newer than the ceiling in force.
func (c *Client) fetchCeiling(ctx context.Context) (installed bool, err error) {
	version, _ := c.opts.Ceiling()
	calling, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	reply, err := c.distribution.Ceiling(calling, &controllerv1.CeilingRequest{Version: version})
	if err != nil {
		return false, c.orNone(fmt.Errorf("fetch ceiling: %w", err))
	}
	if len(reply.GetBundle()) == 0 {
		return false, nil
	}
	if err := c.opts.InstallCeiling(calling, reply.GetBundle()); err != nil {
		return false, fmt.Errorf("ceiling of the controller: %w", err)
	}
	after, _ := c.opts.Ceiling()
	return after != version, nil
}
