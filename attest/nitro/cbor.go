package nitro

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/raypher/raypher/attest"
)

// Major types of RFC 8949, section 3.1, and the single bytes that documents use beside them.
const (
	majorUint  = 0
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5

	null      = 0xf6
	breakByte = 0xff // "break", the end of an item of indefinite length
)

// reader walks over the CBOR of a document. It is stricter than a general decoder: heads have their shortest form
// (RFC 8949, section 4.2.1), only a map that is read with mapOrOpen may have indefinite length, there are no tags, and
// every type is asked for. It allocates nothing that the input's lengths claim, and stops for good at its first error.
type reader struct {
	data []byte
	at   int // offset in data
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = attest.Refuse(CheckEncoding, "byte %d: %s", r.at, fmt.Sprintf(format, args...))
	}
}

// head reads the initial byte and its argument. Indefinite lengths are not for this function.
func (r *reader) head(want byte, what string) uint64 {
	if r.err != nil {
		return 0
	}
	rest := r.data[r.at:]
	if len(rest) == 0 {
		r.fail("truncated: expected %s", what)
		return 0
	}
	major, info := rest[0]>>5, rest[0]&31
	if major != want {
		r.fail("expected %s, found the initial byte %#02x", what, rest[0])
		return 0
	}
	if info < 24 {
		r.at++
		return uint64(info)
	}
	if info > 27 {
		r.fail("%s of indefinite or reserved length", what)
		return 0
	}
	size := 1 << (info - 24)
	if len(rest) < 1+size {
		r.fail("truncated in the length of %s", what)
		return 0
	}
	var wide [8]byte
	copy(wide[8-size:], rest[1:])
	n := binary.BigEndian.Uint64(wide[:])
	if shortest := [4]uint64{24, 1 << 8, 1 << 16, 1 << 32}; n < shortest[info-24] {
		r.fail("%s: %d is not encoded in its shortest form", what, n)
		return 0
	}
	r.at += 1 + size
	return n
}

func (r *reader) run(major byte, what string) []byte {
	n := r.head(major, what)
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.data)-r.at) {
		r.fail("truncated: %s of %d bytes, %d are left", what, n, len(r.data)-r.at)
		return nil
	}
	b := r.data[r.at : r.at+int(n) : r.at+int(n)]
	r.at += int(n)
	return b
}

func (r *reader) uint(what string) uint64 { return r.head(majorUint, what) }

// bytes returns a slice of the reader's data, never nil without an error.
func (r *reader) bytes(what string) []byte { return r.run(majorBytes, what) }

// bytesOrNull returns nil for null.
func (r *reader) bytesOrNull(what string) []byte {
	if r.next(null) {
		return nil
	}
	return r.bytes(what)
}

func (r *reader) text(what string) string {
	b := r.run(majorText, what)
	if !utf8.Valid(b) {
		r.fail("%s is not UTF-8", what)
		return ""
	}
	return string(b)
}

func (r *reader) array(what string) uint64    { return r.head(majorArray, what) }
func (r *reader) fixedMap(what string) uint64 { return r.head(majorMap, what) }

// mapOrOpen is the beginning of a map; open says that its end is marked by a break instead of a count.
func (r *reader) mapOrOpen(what string) (pairs uint64, open bool) {
	if r.next(majorMap<<5 | 31) {
		return 0, true
	}
	return r.fixedMap(what), false
}

// next consumes the byte b if it comes next.
func (r *reader) next(b byte) bool {
	if r.err != nil || r.at == len(r.data) || r.data[r.at] != b {
		return false
	}
	r.at++
	return true
}

// end expects that nothing is left.
func (r *reader) end(what string) {
	if r.err == nil && r.at != len(r.data) {
		r.fail("%d bytes after the end of %s", len(r.data)-r.at, what)
	}
}
