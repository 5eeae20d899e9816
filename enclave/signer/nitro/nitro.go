// Package nitro is the signer of the tier nitro: P-256 keys born in the memory of a Nitro Enclave, which end with it. Nothing is written
// anywhere: who restarts the enclave gets another key.
//
// What vouches for a key is a document of the Nitro Secure Module (/dev/nsm): it covers the key, the epoch and the start configuration,
// and says which image runs. The configuration stands in it twice: in the binding of package attest/nitro, and as PCR16, which Open
// extends with the configuration's hash and locks, so that policies outside (KMS) can ask for it too.
//
// Whoever reads the memory of the enclave has the keys; that is what the hypervisor keeps from its host. In debug mode it does not, and
// the documents say so.
package nitro

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"fmt"
	"sync"

	"github.com/hf/nsm/request"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// Key is the signer. Further keys are like the first one, and at most signer.MaxKeys.
type Key struct {
	pair
	device        *Device
	configuration journal.Hash

	mu      sync.RWMutex // held for reading while signing; Close waits
	closed  bool
	further map[string]*Further
}

var _ signer.Keyring = (*Key)(nil)

// pair is one key.
type pair struct {
	private *ecdsa.PrivateKey // nil after Close
	public  *ecdsa.PublicKey
}

// Open locks the configuration's hash into PCR16 and makes the key. It takes the device over, which Close closes, unless it fails.
func Open(ctx context.Context, d *Device, configuration journal.Hash) (*Key, error) {
	if err := d.seal(ctx, configuration); err != nil {
		return nil, fmt.Errorf("put the start configuration on record: %w", err)
	}
	first, err := d.newPair(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("make the signing key: %w", err)
	}
	return &Key{pair: first, device: d, configuration: configuration, further: make(map[string]*Further)}, nil
}

// seal extends the hash into the register of configurations, and locks it. A register that is as it should be already stays: this
// process was started twice with the same configuration.
func (d *Device) seal(ctx context.Context, configuration journal.Hash) error {
	const index = nitro.ConfigurationPCR
	want := nitro.ConfigurationValue(configuration)
	value, locked, err := d.register(ctx, index)
	if err != nil {
		return err
	}
	if value == (nitro.PCR{}) && !locked {
		answer, err := d.send(ctx, fmt.Sprintf("extend PCR%d", index), &request.ExtendPCR{Index: index, Data: configuration[:]})
		if err != nil {
			return err
		}
		if answer.ExtendPCR == nil {
			return missing("extend the register")
		}
	} else if value != want {
		return fmt.Errorf("%w: PCR%d holds something else already: this enclave was started with another configuration before: start it anew", signer.ErrDevice, index)
	}
	if !locked {
		answer, err := d.send(ctx, fmt.Sprintf("lock PCR%d", index), &request.LockPCR{Index: index})
		if err != nil {
			return err
		}
		if answer.LockPCR == nil {
			return missing("lock the register")
		}
	}
	if value, locked, err = d.register(ctx, index); err != nil {
		return err
	}
	if value != want || !locked {
		return fmt.Errorf("%w: PCR%d is not what was put there: start the enclave anew", signer.ErrDevice, index)
	}
	return nil
}

// newPair makes a key from the kernel's randomness and the module's, either of which is enough. What follows from both is a candidate
// for the private key until one is in the curve's range (FIPS 186-5, A.2.2), which nearly all are.
func (d *Device) newPair(ctx context.Context, name string) (pair, error) {
	const size = 64 // bytes of each source
	secret, err := d.random(ctx, size)
	if err != nil {
		return pair{}, err
	}
	secret = append(secret, make([]byte, size)...)
	defer clear(secret)
	rand.Read(secret[size:]) // never fails
	for attempt := 0; ; attempt++ {
		candidate, err := hkdf.Key(sha512.New, secret, nil, fmt.Sprintf("raypher tier nitro, key %d of %q", attempt, name), 32)
		if err != nil {
			return pair{}, err
		}
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), candidate)
		clear(candidate)
		if err == nil {
			return pair{private, &private.PublicKey}, nil
		}
	}
}

// Public implements signer.Signer.
func (k *Key) Public() *ecdsa.PublicKey { return k.public }

// Tier implements signer.Signer.
func (k *Key) Tier() string { return journal.TierNitro }

// Sign implements signer.Signer; about 20 microseconds, without the module.
func (k *Key) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	return k.sign(ctx, &k.pair, digest)
}

// Evidence implements signer.Signer: a document of the module. binding has to name the configuration that Open was given.
func (k *Key) Evidence(ctx context.Context, nonce []byte, binding signer.Binding) (*journal.KeyEvidence, error) {
	return k.evidence(ctx, &k.pair, nonce, binding)
}

// Close implements signer.Signer. The runtime may have copied the keys; nothing promises that memory holds no trace.
func (k *Key) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	k.private = nil
	for _, f := range k.further {
		f.private = nil
	}
	if err := k.device.Close(); err != nil {
		return fmt.Errorf("close %s: %w", DevicePath, err)
	}
	return nil
}

func (k *Key) sign(ctx context.Context, with *pair, digest []byte) ([]byte, error) {
	if len(digest) != signer.DigestSize {
		return nil, fmt.Errorf("sign: digest of %d bytes: %w", len(digest), signer.ErrInput)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.closed {
		return nil, fmt.Errorf("sign: %w", signer.ErrClosed)
	}
	r, s, err := ecdsa.Sign(rand.Reader, with.private, digest)
	if err != nil {
		return nil, fmt.Errorf("sign: %w: %v", signer.ErrDevice, err)
	}
	signature := make([]byte, signer.SignatureSize)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signature, nil
}

func (k *Key) evidence(ctx context.Context, of *pair, nonce []byte, binding signer.Binding) (*journal.KeyEvidence, error) {
	const what = "attest the key"
	if len(nonce) > signer.MaxNonce {
		return nil, fmt.Errorf("%s: nonce of %d bytes: %w", what, len(nonce), signer.ErrInput)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.closed {
		return nil, fmt.Errorf("%s: %w", what, signer.ErrClosed)
	}
	if binding.Configuration != k.configuration {
		return nil, fmt.Errorf("%s: another configuration than this enclave was started with: %w", what, signer.ErrInput)
	}
	public, err := journal.NewKey(of.public)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	about := nitro.Binding{Epoch: binding.Epoch, Configuration: binding.Configuration}
	if binding.Head != (journal.Hash{}) {
		about.Head = binding.Head[:]
	}
	document, err := k.device.attest(ctx, what, &request.Attestation{PublicKey: public.PKIX(), UserData: about.Encode(), Nonce: nonce})
	if err != nil {
		return nil, err
	}
	return &journal.KeyEvidence{Tier: journal.TierNitro, Document: document}, nil
}
