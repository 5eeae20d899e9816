package journal

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/raypher/raypher/internal/cose1"
	"github.com/raypher/raypher/internal/strictcbor"
)

// The header of a COSE_Sign1 as this package writes it. It is the only form it reads.
type protectedHeader struct {
	Algorithm int64    `cbor:"1,keyasint"`
	KeyID     [32]byte `cbor:"4,keyasint"`
	Type      string   `cbor:"16,keyasint"`
	Structure uint64   `cbor:"395,keyasint,omitempty"`
}

const (
	signatureSize = cose1.SignatureSize // r || s
	vdsRFC9162    = 1                   // COSE Receipts: RFC9162_SHA256
)

// Errors of signed messages.
var (
	ErrSignature  = errors.New("signature does not verify")
	ErrUnknownKey = errors.New("signed by a key that is not the expected one")
)

// signMessage returns the tagged COSE_Sign1 of payload.
func signMessage(typ string, structure uint64, payload []byte, signer Signer) ([]byte, error) {
	protected, err := protectedFor(typ, structure, signer.Public())
	if err != nil {
		return nil, err
	}
	digest := digestToSign(protected, payload)
	signature, err := signer.Sign(digest[:])
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if len(signature) != signatureSize {
		return nil, fmt.Errorf("sign: the signer returned %d bytes instead of %d (r || s)", len(signature), signatureSize)
	}
	return (&cose1.Message{Protected: protected, Payload: payload, Signature: signature}).Encode(), nil
}

// SignMessage returns the COSE_Sign1 of a payload whose format another package owns, by the enclave's key. The type must be that
// format's alone: it is what keeps the statement from being one of another kind.
func SignMessage(typ string, payload []byte, signer Signer) ([]byte, error) {
	return signMessage(typ, 0, payload, signer)
}

// OpenMessage returns the payload of a COSE_Sign1 of at most limit bytes, which SignMessage made with key. Errors about the key
// wrap ErrUnknownKey or ErrSignature.
func OpenMessage(typ string, signed []byte, limit int, key *Key) ([]byte, error) {
	m, err := parseMessage(typ, 0, signed, limit)
	if err != nil {
		return nil, err
	}
	if err := m.verify(key); err != nil {
		return nil, err
	}
	return m.payload, nil
}

func protectedFor(typ string, structure uint64, public *ecdsa.PublicKey) ([]byte, error) {
	key, err := NewKey(public)
	if err != nil {
		return nil, err
	}
	return strictcbor.Encode(protectedHeader{Algorithm: cose1.AlgorithmES256, KeyID: key.ID(), Type: typ, Structure: structure}), nil
}

// message is a COSE_Sign1 whose form was checked and whose signature was not.
type message struct {
	keyID     [32]byte
	protected []byte
	payload   []byte
	signature []byte
}

// parseMessage reads a COSE_Sign1 of the given type. Its slices point into copies, not into data.
func parseMessage(typ string, structure uint64, data []byte, limit int) (*message, error) {
	var h protectedHeader
	m, err := cose1.Decode(data, limit, &h)
	if err != nil {
		return nil, err
	}
	if h.Algorithm != cose1.AlgorithmES256 || h.Type != typ || h.Structure != structure {
		return nil, fmt.Errorf("protected header: algorithm %d, typ %.64q, vds %d: expected %d, %q, %d",
			h.Algorithm, h.Type, h.Structure, cose1.AlgorithmES256, typ, structure)
	}
	return &message{keyID: h.KeyID, protected: m.Protected, payload: m.Payload, signature: m.Signature}, nil
}

// verify checks the signature against key.
func (m *message) verify(key *Key) error {
	if m.keyID != key.id {
		return fmt.Errorf("%w: key %x, expected %x", ErrUnknownKey, m.keyID[:8], key.id[:8])
	}
	digest := digestToSign(m.protected, m.payload)
	if !VerifySignature(key.public, digest[:], m.signature) {
		return ErrSignature
	}
	return nil
}

// digestToSign is the SHA-256 of the Sig_structure (RFC 9052, section 4.4).
func digestToSign(protected, payload []byte) [32]byte {
	return sha256.Sum256(cose1.ToBeSigned(protected, payload))
}

// VerifySignature checks a raw signature r || s on a SHA-256 digest.
func VerifySignature(public *ecdsa.PublicKey, digest, signature []byte) bool {
	if len(signature) != signatureSize {
		return false
	}
	der := make([]byte, 0, signatureSize+8)
	r, s := derInteger(signature[:32]), derInteger(signature[32:])
	der = append(der, 0x30, byte(len(r)+len(s)))
	der = append(append(der, r...), s...)
	return ecdsa.VerifyASN1(public, digest, der)
}

// derInteger encodes an unsigned big-endian number of 32 bytes as an ASN.1 INTEGER: no needless zeros, one if the sign
// bit would be set. Zero encodes as 02 01 00, which no verifier accepts.
func derInteger(n []byte) []byte {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	if n[0]&0x80 != 0 {
		return append([]byte{2, byte(len(n) + 1), 0}, n...)
	}
	return append([]byte{2, byte(len(n))}, n...)
}

// RawSignature turns an ASN.1 signature, as crypto.Signer makes it, into the r || s that Signer.Sign returns.
func RawSignature(der []byte) ([]byte, error) {
	var rs struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &rs)
	if err != nil {
		return nil, fmt.Errorf("ECDSA signature: %w", err)
	}
	if len(rest) != 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
		return nil, errors.New("ECDSA signature: not two numbers of at most 256 bits")
	}
	raw := make([]byte, signatureSize)
	rs.R.FillBytes(raw[:32])
	rs.S.FillBytes(raw[32:])
	return raw, nil
}
