package kms

import (
	"context"
	"errors"
	"log/slog"
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

// Store is where values go. It is called by several goroutines.
type Store interface {
	// PutSecret keeps a value under its name, in the place of an earlier one. The store owns the bytes.
	PutSecret(name string, value []byte)
	// ForgetSecret ends the use of a value. A name that is not held is no error.
	ForgetSecret(name string)
}

// Keep gets the secrets and asks for each again every hour, until ctx ends. What KMS refuses is forgotten; while KMS cannot be reached what is
// held stays.
func (c *Client) Keep(ctx context.Context, secrets []startconf.KMSSecret, store Store, log *slog.Logger) {
	var each sync.WaitGroup
	for _, s := range secrets {
		each.Go(func() {
			for wait := firstRetry; ctx.Err() == nil; {
				pause := refresh
				if c.once(ctx, s, store, log) {
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

// once asks for a secret, and says whether there was an answer.
func (c *Client) once(ctx context.Context, s startconf.KMSSecret, store Store, log *slog.Logger) bool {
	value, err := c.Decrypt(ctx, s)
	switch {
	case ctx.Err() != nil:
		clear(value)
	case errors.Is(err, ErrRefused):
		store.ForgetSecret(s.Name)
		log.Error("no secret from KMS", "name", s.Name, "reason", err)
	case err != nil:
		log.Warn("no answer from KMS", "name", s.Name, "reason", err)
		return false
	default:
		store.PutSecret(s.Name, value)
	}
	return true
}
