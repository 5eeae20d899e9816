package strictcbor

import (
	"bytes"
	"testing"
)

type pair struct {
	Number uint64 `cbor:"1,keyasint"`
	Text   string `cbor:"2,keyasint,omitempty"`
}

// TestDecode: one value, one encoding.
func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		ok   bool
	}{
		{"as encoded", []byte{0xa2, 1, 5, 2, 0x61, 'a'}, true},
		{"an absent field", []byte{0xa1, 1, 5}, true},
		{"nothing", nil, false},
		{"trailing bytes", []byte{0xa1, 1, 5, 0}, false},
		{"keys out of order", []byte{0xa2, 2, 0x61, 'a', 1, 5}, false},
		{"a number longer than it needs to be", []byte{0xa1, 1, 0x18, 5}, false},
		{"an indefinite map", []byte{0xbf, 1, 5, 0xff}, false},
		{"a key twice", []byte{0xa2, 1, 5, 1, 5}, false},
		{"an unknown key", []byte{0xa2, 1, 5, 3, 5}, false},
		{"a tag", []byte{0xc1, 0xa1, 1, 5}, false},
		{"text that is not UTF-8", []byte{0xa2, 1, 5, 2, 0x61, 0xff}, false},
		{"an empty field that is never written", []byte{0xa2, 1, 5, 2, 0x60}, false},
		{"too many bytes", append([]byte{0xa2, 1, 5, 2, 0x78, 60}, bytes.Repeat([]byte{'a'}, 60)...), false},
	} {
		var p pair
		err := Decode(c.data, 32, &p)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && !bytes.Equal(Encode(&p), c.data) {
			t.Errorf("%s: encodes as %x", c.name, Encode(&p))
		}
	}
}
