package nitro

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/hf/nsm/request"

	"github.com/raypher/raypher/enclave/signer"
)

// RecipientUse is the user data of documents about keys that AWS KMS encrypts to. It is no attest/nitro.Binding, which is a CBOR map, so no
// document that AttestRecipient gets vouches for a signing key; nor could it with an RSA key, as signing keys are on P-256.
const RecipientUse = "raypher: this key receives from AWS KMS, and signs nothing"

// AttestRecipient returns a document of the module about a key that is not the signing key: AWS KMS encrypts its answer to it. Nothing in the
// document is the caller's choice but that key.
func (k *Key) AttestRecipient(ctx context.Context, key *rsa.PublicKey) (document []byte, err error) {
	const what = "attest the key for KMS"
	public, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.closed {
		return nil, fmt.Errorf("%s: %w", what, signer.ErrClosed)
	}
	return k.device.attest(ctx, what, &request.Attestation{PublicKey: public, UserData: []byte(RecipientUse)})
}
