// Package keys holds the further keys of the enclave: those of namespaces, of the TLS authority and of agents. Each is made by the
// signer at its first use, and announced in the journal, with its evidence, before its first use in an epoch. What a key signs is
// the business of its user, one kind of thing for each purpose: package mint (heads), package agenttls (certificates, handshakes).
package keys

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	sequencer "github.com/raypher/raypher/enclave/journal"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// ErrNone: this tier's signer holds one key and no more.
var ErrNone = errors.New("the signer of this tier holds no further keys")

// Options of the keys.
type Options struct {
	Signer        signer.Signer
	Journal       *sequencer.Sequencer
	Epoch         journal.EpochID
	Configuration journal.Hash
}

// Keys is all further keys of one enclave. It is safe for concurrent use.
type Keys struct {
	opts Options

	making chan struct{} // holds a token while one is made and announced
	mu     sync.RWMutex
	ready  map[id]signer.Signer // announced in this epoch
}

type id struct {
	purpose journal.Purpose
	name    string
}

// New returns the keys of a signer, which may hold none.
func New(o Options) *Keys {
	return &Keys{opts: o, making: make(chan struct{}, 1), ready: make(map[id]signer.Signer)}
}

// Ready returns the key if it was announced in this epoch, else nil. It does not wait.
func (k *Keys) Ready(purpose journal.Purpose, name string) signer.Signer {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.ready[id{purpose, name}]
}

// Get returns the key, made and announced where that is still to be done, which takes a store, and on slow chips some seconds.
// Errors: ErrNone, those of signer.Keyring and of the journal.
func (k *Keys) Get(ctx context.Context, purpose journal.Purpose, name string) (signer.Signer, error) {
	if key := k.Ready(purpose, name); key != nil {
		return key, nil
	}
	select {
	case k.making <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("key %s of %s: wait for another one: %w", purpose, name, ctx.Err())
	}
	defer func() { <-k.making }()
	if key := k.Ready(purpose, name); key != nil {
		return key, nil
	}
	key, err := k.announce(ctx, purpose, name)
	if err != nil {
		return nil, fmt.Errorf("key %s of %s: %w", purpose, name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready[id{purpose, name}] = key
	return key, nil
}

func (k *Keys) announce(ctx context.Context, purpose journal.Purpose, name string) (signer.Signer, error) {
	ring, ok := k.opts.Signer.(signer.Keyring)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNone, k.opts.Signer.Tier())
	}
	if !k.opts.Journal.Attached() {
		return nil, sequencer.ErrNoStore // before anything is made
	}
	key, err := ring.Key(ctx, string(purpose)+"/"+name)
	if err != nil {
		return nil, err
	}
	public, err := journal.NewKey(key.Public())
	if err != nil {
		return nil, err
	}
	evidence, err := key.Evidence(ctx, nil, k.binding())
	if err != nil {
		return nil, err
	}
	payload, err := (&journal.FurtherKey{Purpose: purpose, Name: name, PublicKey: public.PKIX(), KeyEvidence: *evidence}).Encode()
	if err != nil {
		return nil, err
	}
	entry, err := journal.NewEntry(journal.TypeKey, time.Now(), payload)
	if err != nil {
		return nil, err
	}
	_, err = k.opts.Journal.Append(ctx, entry)
	return key, err
}

// Evidence is evidence of a key, fresh for a nonce. The key is made where it does not exist yet.
func (k *Keys) Evidence(ctx context.Context, purpose journal.Purpose, name string, nonce []byte) (*journal.Key, *journal.KeyEvidence, error) {
	key, err := k.Get(ctx, purpose, name)
	if err != nil {
		return nil, nil, err
	}
	public, err := journal.NewKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	evidence, err := key.Evidence(ctx, nonce, k.binding())
	if err != nil {
		return nil, nil, fmt.Errorf("key %s of %s: %w", purpose, name, err)
	}
	return public, evidence, nil
}

func (k *Keys) binding() signer.Binding {
	return signer.Binding{Epoch: k.opts.Epoch, Configuration: k.opts.Configuration}
}
