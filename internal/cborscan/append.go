package cborscan

import "encoding/binary"

// Output collects deterministic CBOR of a fixed shape. The caller writes map keys in their order (RFC 8949, section 4.2.1:
// bytewise by encoding, so 0, 1, ... before -1, -2, ...) and as many pairs and elements as it announced. Start with a buffer
// of the right capacity and nothing more is allocated.
type Output []byte

// Map begins a map of n pairs.
func (o *Output) Map(n uint64) { o.head(majorMap, n) }

// Array begins an array of n elements.
func (o *Output) Array(n uint64) { o.head(majorArray, n) }

// Uint appends an unsigned integer; as a key of a map too.
func (o *Output) Uint(n uint64) { o.head(majorUint, n) }

// Int appends an integer; as a key of a map too.
func (o *Output) Int(n int64) {
	if n < 0 {
		o.head(majorNint, uint64(^n)) // -1 - n, RFC 8949, section 3.1
		return
	}
	o.head(majorUint, uint64(n))
}

// Bytes appends a byte string.
func (o *Output) Bytes(b []byte) {
	o.head(majorBytes, uint64(len(b)))
	*o = append(*o, b...)
}

// Text appends a text string, which must be valid UTF-8.
func (o *Output) Text(s string) {
	o.head(majorText, uint64(len(s)))
	*o = append(*o, s...)
}

// Raw appends what is encoded already.
func (o *Output) Raw(b []byte) { *o = append(*o, b...) }

// head appends the initial byte and its argument in the shortest form.
func (o *Output) head(major byte, n uint64) {
	switch b := major << 5; {
	case n < 24:
		*o = append(*o, b|byte(n))
	case n < 1<<8:
		*o = append(*o, b|24, byte(n))
	case n < 1<<16:
		*o = binary.BigEndian.AppendUint16(append(*o, b|25), uint16(n))
	case n < 1<<32:
		*o = binary.BigEndian.AppendUint32(append(*o, b|26), uint32(n))
	default:
		*o = binary.BigEndian.AppendUint64(append(*o, b|27), n)
	}
}
