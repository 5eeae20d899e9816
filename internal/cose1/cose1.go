// Package cose1 is the envelope of everything in the project that is signed and kept: COSE_Sign1 (RFC 9052, section 4.2) with tag
// 18, in deterministic CBOR, without external data and with an empty unprotected header. What the protected header must say, and
// whose signature counts, is the caller's: packages journal and sign1 decide it.
//
// It reads exactly what it writes: an envelope has one form.
package cose1

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/internal/strictcbor"
)

// Tag is the first byte of an envelope: tag 18 (RFC 9052, section 2).
const Tag = 0xd2

// SignatureSize is the size of every signature in bytes: Ed25519, and r || s on P-256.
const SignatureSize = 64

// Algorithms of the protected header (RFC 9053, tables 1 and 2).
const (
	AlgorithmES256 = -7
	AlgorithmEdDSA = -8
)

// Message is an envelope whose form was checked and whose signature was not. Its slices are copies.
type Message struct {
	Protected []byte // encoded, as it is signed
	Payload   []byte // not empty
	Signature []byte // of SignatureSize
}

type sign1 struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[int64]cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

type toBeSigned struct {
	_         struct{} `cbor:",toarray"`
	Context   string
	Protected []byte
	External  []byte
	Payload   []byte
}

// ToBeSigned is the Sig_structure (RFC 9052, section 4.4): the bytes that the signature is over.
func ToBeSigned(protected, payload []byte) []byte {
	return strictcbor.Encode(toBeSigned{Context: "Signature1", Protected: protected, External: []byte{}, Payload: payload})
}

// Encode writes an envelope.
func (m *Message) Encode() []byte {
	body := strictcbor.Encode(sign1{Protected: m.Protected, Unprotected: map[int64]cbor.RawMessage{}, Payload: m.Payload, Signature: m.Signature})
	return append([]byte{Tag}, body...)
}

// Decode reads an envelope of at most limit bytes and its protected header into header, a pointer to the caller's struct.
func Decode(data []byte, limit int, header any) (*Message, error) {
	if len(data) == 0 || len(data) > limit {
		return nil, fmt.Errorf("%d bytes, expected 1 to %d", len(data), limit)
	}
	if data[0] != Tag {
		return nil, errors.New("not a COSE_Sign1 (tag 18)")
	}
	var m sign1
	if err := strictcbor.Decode(data[1:], limit, &m); err != nil {
		return nil, err
	}
	if len(m.Unprotected) != 0 || m.Unprotected == nil {
		return nil, errors.New("the unprotected header is not empty")
	}
	if len(m.Signature) != SignatureSize || len(m.Payload) == 0 {
		return nil, fmt.Errorf("no payload, or the signature does not have %d bytes", SignatureSize)
	}
	if err := strictcbor.Decode(m.Protected, limit, header); err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	return &Message{Protected: m.Protected, Payload: m.Payload, Signature: m.Signature}, nil
}
