package nitro

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// Further is a further key: in memory like the first one, vouched for in the same way, and ended with it.
type Further struct {
	pair
	ring *Key
}

var _ signer.Signer = (*Further)(nil)

// Key implements signer.Keyring.
func (k *Key) Key(ctx context.Context, name string) (signer.Signer, error) {
	if err := signer.CheckName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("key %q: %w", name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, fmt.Errorf("key %q: %w", name, signer.ErrClosed)
	}
	if f := k.further[name]; f != nil {
		return f, nil
	}
	if len(k.further) >= signer.MaxKeys {
		return nil, fmt.Errorf("%w: this enclave holds %d: start it anew", signer.ErrFull, len(k.further))
	}
	made, err := k.device.newPair(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", name, err)
	}
	f := &Further{pair: made, ring: k}
	k.further[name] = f
	return f, nil
}

// Public implements signer.Signer.
func (f *Further) Public() *ecdsa.PublicKey { return f.public }

// Tier implements signer.Signer.
func (f *Further) Tier() string { return journal.TierNitro }

// Sign implements signer.Signer.
func (f *Further) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	return f.ring.sign(ctx, &f.pair, digest)
}

// Evidence implements signer.Signer, as that of the first key.
func (f *Further) Evidence(ctx context.Context, nonce []byte, binding signer.Binding) (*journal.KeyEvidence, error) {
	return f.ring.evidence(ctx, &f.pair, nonce, binding)
}

// Close implements signer.Signer. It releases nothing: the key ends with the keyring.
func (f *Further) Close() error { return nil }
