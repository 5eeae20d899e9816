package sign1

import (
	"errors"
	"fmt"
)

// Kind is a kind of signed file whose payload is a T. The zero value reads nothing.
type Kind[T any] struct {
	Type  string // in the protected header
	Limit int    // bytes of the whole file
	// Errors that everything wraps that is wrong with a file's form, or with who signed it.
	Malformed, Untrusted error
	Make                 string // how a file of this kind is made, in words
	Trust                string // how its signer comes to be trusted, in words; empty: that is not for who reads the error
	// Decode makes a T of a payload. It gets the file too, for a hash of it.
	Decode func(file, payload []byte) (T, error)
}

// Open verifies a file against trusted keys (PKIX DER), and then, and not before, looks into its payload.
func (k *Kind[T]) Open(file []byte, keys [][]byte) (T, error) {
	var none T
	m, err := k.parse(file)
	if err != nil {
		return none, err
	}
	err = m.Verify(keys)
	if errors.Is(err, ErrUnknownKey) && k.Trust != "" {
		err = fmt.Errorf("%w: %s", err, k.Trust)
	}
	if err != nil {
		return none, fmt.Errorf("%w: %w", k.Untrusted, err)
	}
	return k.decode(file, m)
}

// Read returns what is in a file and the SHA-256 of the key that it names, without verifying the signature: what it returns is a claim.
func (k *Kind[T]) Read(file []byte) (T, [32]byte, error) {
	m, err := k.parse(file)
	if err != nil {
		var none T
		return none, [32]byte{}, err
	}
	t, err := k.decode(file, m)
	return t, m.KeyID, err
}

func (k *Kind[T]) parse(file []byte) (*Message, error) {
	m, err := Parse(k.Type, file, k.Limit)
	if err != nil {
		return nil, fmt.Errorf("%w: %w: %s", k.Malformed, err, k.Make)
	}
	return m, nil
}

func (k *Kind[T]) decode(file []byte, m *Message) (T, error) {
	t, err := k.Decode(file, m.Payload)
	if err != nil {
		var none T
		return none, fmt.Errorf("%w: %w", k.Malformed, err)
	}
	return t, nil
}
