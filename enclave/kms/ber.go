package kms

import "fmt"

// Identifier octets (X.690, section 8.1.2) of what a message holds.
const (
	tagInteger          = 0x02
	tagOctets           = 0x04
	tagObject           = 0x06
	tagSequence         = 0x30
	tagSet              = 0x31
	tagContext0         = 0x80 // [0], primitive
	tagContext0Compound = 0xa0 // [0], constructed
)

// ber reads BER (X.690) of a known structure from front to back. Lengths are definite and as short as can be, as in DER, or indefinite
// where a constructed element is read with in: KMS writes its messages as a stream. The first mistake ends it; what is read after that
// is empty. The slices that it returns point into the input.
type ber struct {
	rest       []byte
	indefinite bool // ends with two zero bytes and not with the input
	err        error
}

func (b *ber) fail(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
	b.rest = nil
}

// next says which element comes; 0: none.
func (b *ber) next() byte {
	if b.err != nil || len(b.rest) == 0 {
		return 0
	}
	return b.rest[0] // the end of an indefinite length begins with 0
}

// header reads identifier and length. An indefinite length is -1.
func (b *ber) header(tag byte, what string) (length int) {
	if b.err != nil {
		return 0
	}
	if len(b.rest) < 2 || b.rest[0] != tag {
		b.fail("%s: expected an element of type %#02x", what, tag)
		return 0
	}
	first := b.rest[1]
	b.rest = b.rest[2:]
	switch {
	case first == 0x80:
		return -1
	case first < 0x80:
		length = int(first)
	default:
		octets := int(first & 0x7f)
		if octets > 2 || octets > len(b.rest) {
			b.fail("%s: a length of %d octets", what, octets)
			return 0
		}
		for _, octet := range b.rest[:octets] {
			length = length<<8 | int(octet)
		}
		if length < 0x80 || octets == 2 && length < 0x100 {
			b.fail("%s: a length that is longer than it need be", what)
			return 0
		}
		b.rest = b.rest[octets:]
	}
	if length > len(b.rest) {
		b.fail("%s: %d bytes, of which %d are there", what, length, len(b.rest))
		return 0
	}
	return length
}

// bytes reads an element of definite length and returns its contents.
func (b *ber) bytes(tag byte, what string) []byte {
	length := b.header(tag, what)
	if length < 0 {
		b.fail("%s: an indefinite length", what)
	}
	if b.err != nil {
		return nil
	}
	contents := b.rest[:length:length]
	b.rest = b.rest[length:]
	return contents
}

// in reads a constructed element, of definite or indefinite length, with read, which has to read all of it.
func (b *ber) in(tag byte, what string, read func(*ber)) {
	length := b.header(tag, what)
	if b.err != nil {
		return
	}
	inner := &ber{rest: b.rest, indefinite: length < 0}
	if !inner.indefinite {
		inner.rest = b.rest[:length:length]
	}
	read(inner)
	switch {
	case inner.err != nil:
		b.fail("%w", inner.err)
	case !inner.indefinite && len(inner.rest) > 0:
		b.fail("%s: %d bytes more than expected", what, len(inner.rest))
	case !inner.indefinite:
		b.rest = b.rest[length:]
	case len(inner.rest) < 2 || inner.rest[0] != 0 || inner.rest[1] != 0: // end-of-contents octets, X.690, section 8.1.5
		b.fail("%s: no end where it was expected", what)
	default:
		b.rest = inner.rest[2:]
	}
}
