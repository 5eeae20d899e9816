// Package cborscan reads and writes deterministic CBOR (RFC 8949, section 4.2.1) of a fixed shape without allocating: what a
// general decoder does by decoding, encoding again and comparing. It is for the formats that are read and written tens of
// thousands of times a second; everything else uses fxamacker/cbor.
package cborscan

import "encoding/binary"

// Cursor walks over one encoded value. The first thing that is not as expected makes it bad for good: check OK or End once,
// after the last call. It never reads beyond its bytes, and what it returns while bad is empty.
type Cursor struct {
	rest []byte
	bad  bool
}

// New begins at the first byte of b. The slices that Bytes returns point into b.
func New(b []byte) *Cursor { return &Cursor{rest: b} }

// Major types of RFC 8949, section 3.1.
const (
	majorUint  = 0
	majorNint  = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
)

// OK says that all was as expected so far.
func (c *Cursor) OK() bool { return !c.bad }

// End says that all was as expected and nothing is left.
func (c *Cursor) End() bool { return !c.bad && len(c.rest) == 0 }

// Rest returns what is left, and nothing when something was bad.
func (c *Cursor) Rest() []byte {
	if c.bad {
		return nil
	}
	return c.rest
}

// Map expects a map of exactly n pairs.
func (c *Cursor) Map(n uint64) { c.require(c.expect(majorMap) == n) }

// Key expects the unsigned integer n.
func (c *Cursor) Key(n uint64) { c.require(c.expect(majorUint) == n) }

// Array expects an array and returns its length, at most limit.
func (c *Cursor) Array(limit uint64) int {
	n := c.expect(majorArray)
	c.require(n <= limit)
	if c.bad {
		return 0
	}
	return int(n)
}

// Uint expects an unsigned integer.
func (c *Cursor) Uint() uint64 { return c.expect(majorUint) }

// Int expects an integer that fits int64.
func (c *Cursor) Int() int64 {
	major, n := c.head()
	c.require(major == majorUint || major == majorNint)
	c.require(n <= 1<<63-1)
	if c.bad {
		return 0
	}
	if major == majorNint {
		return -1 - int64(n)
	}
	return int64(n)
}

// Bytes expects a byte string of any length.
func (c *Cursor) Bytes() []byte {
	n := c.expect(majorBytes)
	c.require(n <= uint64(len(c.rest)))
	if c.bad {
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

// Fixed expects a byte string of exactly len(to) bytes and copies it there.
func (c *Cursor) Fixed(to []byte) {
	b := c.Bytes()
	c.require(len(b) == len(to))
	if !c.bad {
		copy(to, b)
	}
}

func (c *Cursor) require(ok bool) {
	if !ok {
		c.bad = true
	}
}

func (c *Cursor) expect(major byte) uint64 {
	got, n := c.head()
	c.require(got == major)
	if c.bad {
		return 0
	}
	return n
}

// head reads the initial byte and its argument, which must have the shortest form.
func (c *Cursor) head() (major byte, n uint64) {
	if c.bad || len(c.rest) == 0 {
		c.bad = true
		return 0, 0
	}
	first := c.rest[0]
	c.rest = c.rest[1:]
	major, info := first>>5, first&31
	if info < 24 {
		return major, uint64(info)
	}
	if info > 27 { // reserved, or of indefinite length
		c.bad = true
		return 0, 0
	}
	size := 1 << (info - 24)
	if len(c.rest) < size {
		c.bad = true
		return 0, 0
	}
	var wide [8]byte
	copy(wide[8-size:], c.rest[:size])
	c.rest = c.rest[size:]
	n = binary.BigEndian.Uint64(wide[:])
	shortest := [4]uint64{24, 1 << 8, 1 << 16, 1 << 32}
	c.require(n >= shortest[info-24])
	return major, n
}
