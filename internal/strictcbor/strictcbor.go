// Package strictcbor is the one CBOR codec of the project's formats: it writes the deterministic encoding (RFC 8949, section
// 4.2.1) and reads nothing else, so that a value has exactly one encoding and a signature over bytes is one over a value.
//
// It is fit for hostile input: no tags, indefinite lengths, duplicate or unknown keys, and bounded nesting and counts.
package strictcbor

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Bounds of what Decode reads, beside the caller's limit of bytes.
const (
	maxNesting  = 8
	maxElements = 256 // of one array
	maxPairs    = 64  // of one map
)

var (
	encoding = must(cbor.CoreDetEncOptions().EncMode())
	decoding = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:   maxNesting,
		MaxArrayElements:  maxElements,
		MaxMapPairs:       maxPairs,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode())
)

// ErrEncoding means that the bytes are not the deterministic encoding of what they say.
var ErrEncoding = errors.New("not the expected map in deterministic encoding")

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constant options, and values whose types always encode
	}
	return v
}

// Encode returns the deterministic encoding of a value made of numbers, strings, bytes, arrays, maps and structs. Any other
// type is a mistake in the program and panics.
func Encode(v any) []byte { return must(encoding.Marshal(v)) }

// Decode decodes at most limit bytes into v, which must be a pointer, and refuses every encoding but the one that Encode makes.
func Decode(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("%d bytes, the limit is %d", len(data), limit)
	}
	if err := decoding.Unmarshal(data, v); err != nil {
		return err
	}
	again, err := encoding.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return ErrEncoding
	}
	return nil
}
