package tpm

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// Further is a further key: made like the first, kept as blobs in a file of its own, and certified by the same AK. It is in the TPM
// only while it is used, because there is room for three. Between uses this process holds its saved context, which loads in a fraction
// of the time that a load from blobs takes; after a reset of the TPM the blobs count again.
type Further struct {
	ring   *Key
	name   string
	public *attest.Public
	area   []byte

	blobs *blobs                    // of the owner's goroutine, as is
	saved *tpm2.ContextSaveResponse // nil: load from the blobs
}

var _ signer.Signer = (*Further)(nil)

// Key implements signer.Keyring. Making one takes the time of two primary keys and of a key, a second or so on slow chips.
func (k *Key) Key(ctx context.Context, name string) (signer.Signer, error) {
	if err := signer.CheckName(name); err != nil {
		return nil, err
	}
	if k.closed.Load() {
		return nil, fmt.Errorf("key %q: %w", name, signer.ErrClosed)
	}
	var f *Further
	err := k.owner.do(ctx, func(tpm transport.TPM) (err error) {
		f, err = k.openFurther(tpm, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("key %q in the TPM: %w", name, deviceError(err))
	}
	return f, nil
}

func (k *Key) openFurther(tpm transport.TPM, name string) (*Further, error) {
	if f := k.further[name]; f != nil {
		return f, nil
	}
	path := signer.KeyPath(k.state, name)
	b, err := readBlobs(path)
	if err == nil && b == nil {
		if err = signer.RoomForKey(k.state); err == nil {
			b, _, err = makeBlobs(tpm, path)
		}
	}
	if err != nil {
		return nil, err
	}
	f := &Further{ring: k, name: name, area: b.Public, blobs: b}
	if f.public, err = attest.ParsePublic(f.area, attest.SigningKey); err != nil {
		return nil, err
	}
	// Once, so that blobs that do not load are found here and not at the first signature.
	if err := f.withKey(tpm, func(*loaded) error { return nil }); err != nil {
		return nil, err
	}
	k.further[name] = f
	return f, nil
}

// Public implements signer.Signer.
func (f *Further) Public() *ecdsa.PublicKey { return f.public.Key }

// Tier implements signer.Signer.
func (f *Further) Tier() string { return journal.TierTPM }

// Sign implements signer.Signer.
func (f *Further) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	return f.ring.signWith(ctx, f.withKey, f.public.Key, digest)
}

// Evidence implements signer.Signer.
func (f *Further) Evidence(ctx context.Context, nonce []byte, binding signer.Binding) (*journal.KeyEvidence, error) {
	return f.ring.evidenceOf(ctx, f.withKey, f.area, nonce, binding)
}

// Close implements signer.Signer; the key ends with its keyring.
func (f *Further) Close() error { return nil }

// withKey loads the key beside the first one, under that one's session, and flushes it after use. Where the TPM was reset, the first
// key's withKey does it all again.
func (f *Further) withKey(tpm transport.TPM, use func(*loaded) error) error {
	return f.ring.withKey(tpm, func(first *loaded) error {
		l := &loaded{session: first.session}
		if err := f.load(tpm, l); err != nil {
			return err
		}
		defer flush(tpm, l.handle)
		return use(l)
	})
}

// load brings the key into the TPM: from its saved context, or from its blobs, whose context it then saves.
func (f *Further) load(tpm transport.TPM, l *loaded) error {
	if f.saved != nil {
		response, err := execute(tpm, tpm2.ContextLoad{Context: f.saved.Context})
		if err == nil {
			l.handle, l.name, l.area = response.LoadedHandle, f.tpmName(), f.area
			return nil
		}
		f.saved = nil
	}
	p, err := f.blobs.makeParent(tpm)
	if err != nil {
		return err
	}
	defer flush(tpm, p.handle)
	if err := f.blobs.loadUnder(tpm, p, l); err != nil {
		return err
	}
	saved, err := execute(tpm, tpm2.ContextSave{SaveHandle: l.handle})
	if err != nil {
		flush(tpm, l.handle)
		return fmt.Errorf("save the context of the key: %w", err)
	}
	f.saved = saved
	return nil
}

func (f *Further) tpmName() tpm2.TPM2BName { return tpm2.TPM2BName{Buffer: f.public.Name} }
