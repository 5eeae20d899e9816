package journal

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/strictcbor"
)

// A namespace may have a key of its own. That key signs, over the same tree and beside the journal's key, heads that name the
// namespace: a statement about its entries and about no others. It never signs a head of the journal, and the journal's key never
// signs one of these, which the type in the protected header keeps apart.

const namespaceHeadType = "application/raypher-namespace-head+cbor"

// NamespaceHead is a tree head that vouches for the visas of one namespace only.
type NamespaceHead struct {
	Head      Head   `cbor:"1,keyasint"`
	Namespace string `cbor:"2,keyasint"`
}

// SignNamespaceHead returns the COSE_Sign1 of a head for one namespace, by that namespace's key.
func SignNamespaceHead(h NamespaceHead, signer Signer) ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("namespace head: %w", err)
	}
	signed, err := signMessage(namespaceHeadType, vdsRFC9162, strictcbor.Encode(&h), signer)
	if err != nil {
		return nil, fmt.Errorf("namespace head: %w", err)
	}
	return signed, nil
}

// VerifyNamespaceHead reads a signed head for a namespace and checks its form and its signature. The caller holds what it vouches
// for against its Namespace. Errors wrap ErrUnknownKey or ErrSignature where they are about the key.
func VerifyNamespaceHead(signed []byte, key *Key) (*NamespaceHead, error) {
	m, err := parseMessage(namespaceHeadType, vdsRFC9162, signed, MaxSignedHeadSize)
	if err != nil {
		return nil, fmt.Errorf("namespace head: %w", err)
	}
	if err := m.verify(key); err != nil {
		return nil, fmt.Errorf("namespace head: %w", err)
	}
	var h NamespaceHead
	if err := strictcbor.Decode(m.payload, MaxSignedHeadSize, &h); err != nil {
		return nil, fmt.Errorf("namespace head: %w", err)
	}
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("namespace head: %w", err)
	}
	return &h, nil
}

// NamespaceHeadKey is the identifier of the key that a signed head for a namespace names, unverified.
func NamespaceHeadKey(signed []byte) ([32]byte, error) {
	m, err := parseMessage(namespaceHeadType, vdsRFC9162, signed, MaxSignedHeadSize)
	if err != nil {
		return [32]byte{}, fmt.Errorf("namespace head: %w", err)
	}
	return m.keyID, nil
}

func (h *NamespaceHead) check() error {
	if h.Namespace == "" || len(h.Namespace) > MaxKeyNameSize {
		return errors.New("without a namespace, or with one that is too long")
	}
	return h.Head.check()
}
