package agenttls

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"strings"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// clientContext separates signatures of clients from all others (RFC 8446 section 4.4.3).
const clientContext = "TLS 1.3, client CertificateVerify"

// content is what the client of a TLS 1.3 handshake signs (RFC 8446 section 4.4.3).
func content(transcript []byte) []byte {
	return append([]byte(strings.Repeat(" ", 64)+clientContext+"\x00"), transcript...)
}

// SignHandshake signs a handshake as the agent of the visa: transcript is the hash of its messages up to the client's certificate, by
// SHA-256 or SHA-384. The signature is ecdsa_secp256r1_sha256, in ASN.1 DER.
func (a *Authority) SignHandshake(ctx context.Context, visa, transcript []byte) ([]byte, error) {
	if n := len(transcript); n != sha256.Size && n != sha512.Size384 {
		return nil, fmt.Errorf("%w: tls: a transcript hash of %d bytes, expected %d or %d", ErrInvalid, n, sha256.Size, sha512.Size384)
	}
	who, done, err := a.authorise(ctx, visa)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := a.record(ctx, who, journal.UseHandshake, transcript); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	digest := sha256.Sum256(content(transcript))
	signature, err := signer.ForX509(ctx, who.key).Sign(nil, digest[:], nil)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return signature, nil
}
