// Package tpm is the signer of the tier tpm: a P-256 key made inside a TPM 2.0, which cannot leave it. Whoever holds the
// machine can have it sign; nobody can take the key to another one.
//
// The key is made at the first start, under the TPM's storage primary key, and its two blobs are kept in the state
// folder: the private one is encrypted to this TPM. Blobs and not a persistent handle, because persistent slots are few
// (TPMs must have seven), shared with everything else on the host, and take the owner's password to free again; a lost
// state folder has lost the ceiling and the link's keys too. A key that tpm2-tools made is used where tpm.conf names one.
//
// One goroutine talks to the device (owner.go). It keeps two things in the TPM: the loaded key, and one HMAC session, salted to
// the primary key, under which digests travel encrypted and every answer is authenticated. Everything else is flushed by
// the call that needed it, because a TPM without a resource manager has room for three keys.
//
// Evidence is a bundle of package attest/tpm.
package tpm

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// Options of a signer.
type Options struct {
	// TPM is the device; the signer closes it. A *Device, or something around one.
	TPM transport.TPMCloser
	// State is the folder of the key's blobs and of the activation record; private to this process's user.
	State string
	// Configuration of tpm.conf; the zero value is a key of the signer's own and DefaultPCRs.
	Configuration Configuration
}

// Key is the signer.
type Key struct {
	owner         *owner
	state         string
	configuration Configuration
	public        *attest.Public
	area          []byte // TPMT_PUBLIC
	endorsement   []byte // EK certificate, DER
	closed        atomic.Bool

	// Of the owner's goroutine.
	loaded  *loaded // nil: to be loaded again
	further map[string]*Further
}

var _ signer.Keyring = (*Key)(nil)

// Open finds the key, or makes it; made says which. It takes what the TPM takes to make a primary key: a tenth of a second
// to some seconds. On an error the device is closed.
func Open(ctx context.Context, o Options) (key *Key, made bool, err error) {
	k := &Key{state: o.State, configuration: o.Configuration, further: make(map[string]*Further)}
	k.owner = own(o.TPM, func(tpm transport.TPM) {
		if k.loaded != nil {
			k.loaded.flush(tpm)
		}
	})
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		made, err = k.open(tpm)
		return err
	})
	if err != nil {
		k.owner.close()
		return nil, false, fmt.Errorf("signing key in the TPM: %w", deviceError(err))
	}
	return k, made, nil
}

func (k *Key) open(tpm transport.TPM) (made bool, err error) {
	source, made, err := k.source(tpm)
	if err != nil {
		return false, err
	}
	if k.loaded, err = source.load(tpm); err != nil {
		return false, err
	}
	k.area = k.loaded.area
	if k.public, err = attest.ParsePublic(k.area, attest.SigningKey); err != nil {
		return false, fmt.Errorf("%w: make it with tpm2_create -G ecc256:ecdsa-sha256:null -a \"fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign\"", err)
	}
	return made, nil
}

// Public implements signer.Signer.
func (k *Key) Public() *ecdsa.PublicKey { return k.public.Key }

// Tier implements signer.Signer.
func (k *Key) Tier() string { return journal.TierTPM }

// Sign implements signer.Signer. Real chips take 17 to 190 milliseconds.
func (k *Key) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	return k.signWith(ctx, k.withKey, k.public.Key, digest)
}

// using runs its argument with one loaded key, in the owner's goroutine.
type using func(transport.TPM, func(*loaded) error) error

// signWith signs with the key that with loads.
func (k *Key) signWith(ctx context.Context, with using, public *ecdsa.PublicKey, digest []byte) (signature []byte, err error) {
	if len(digest) != signer.DigestSize {
		return nil, fmt.Errorf("sign: digest of %d bytes: %w", len(digest), signer.ErrInput)
	}
	if k.closed.Load() {
		return nil, fmt.Errorf("sign: %w", signer.ErrClosed)
	}
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		return with(tpm, func(l *loaded) (err error) {
			signature, err = l.sign(tpm, public, digest)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("sign: %w", deviceError(err))
	}
	return signature, nil
}

// sign asks the TPM, and believes its signature only when it verifies.
func (l *loaded) sign(tpm transport.TPM, public *ecdsa.PublicKey, digest []byte) ([]byte, error) {
	response, err := execute(tpm, tpm2.Sign{
		KeyHandle: l.auth(),
		Digest:    tpm2.TPM2BDigest{Buffer: digest},
		InScheme: tpm2.TPMTSigScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256}),
		},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	})
	if err != nil {
		return nil, err
	}
	signature, err := rawSignature(&response.Signature)
	if err != nil {
		return nil, err
	}
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(public, digest, r, s) {
		return nil, errors.New("the TPM's signature does not verify: it answers garbage")
	}
	return signature, nil
}

// rawSignature is r || s of a TPM's ECDSA signature.
func rawSignature(s *tpm2.TPMTSignature) ([]byte, error) {
	e, err := s.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	r, x := e.SignatureR.Buffer, e.SignatureS.Buffer
	if len(r) > 32 || len(x) > 32 {
		return nil, errors.New("the TPM's signature is too long for P-256")
	}
	out := make([]byte, signer.SignatureSize)
	copy(out[32-len(r):], r)
	copy(out[64-len(x):], x)
	return out, nil
}

// withKey runs use with the loaded key. When that fails for any reason but a lost or slow device, the key is loaded anew and
// use runs once more: a TPM that was reset has forgotten handles and sessions, and says so in many ways.
func (k *Key) withKey(tpm transport.TPM, use func(*loaded) error) error {
	if k.loaded != nil {
		err := use(k.loaded)
		if err == nil || errors.Is(err, ErrLost) || errors.Is(err, ErrLate) {
			return err
		}
		k.loaded.flush(tpm)
	}
	if err := k.reload(tpm); err != nil {
		return err
	}
	return use(k.loaded)
}

func (k *Key) reload(tpm transport.TPM) error {
	k.loaded = nil
	source, _, err := k.source(tpm)
	if err != nil {
		return err
	}
	l, err := source.load(tpm)
	if err != nil {
		return err
	}
	if string(l.area) != string(k.area) {
		l.flush(tpm)
		return errors.New("there is another key now: start again")
	}
	k.loaded = l
	return nil
}

// Close implements signer.Signer.
func (k *Key) Close() error {
	k.closed.Store(true)
	k.owner.close()
	return nil
}
