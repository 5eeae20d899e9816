package cborscan_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/internal/cborscan"
)

func TestIntegersHaveOneForm(t *testing.T) {
	for encoded, want := range map[string]struct {
		n  int64
		ok bool
	}{
		"00": {0, true}, "17": {23, true}, "1818": {24, true}, "1817": {}, "190100": {256, true}, "1900ff": {},
		"1a00010000": {65536, true}, "1a0000ffff": {}, "1b0000000100000000": {1 << 32, true}, "1b00000000ffffffff": {},
		"20": {-1, true}, "3818": {-25, true}, "3817": {}, "1b7fffffffffffffff": {1<<63 - 1, true}, "1b8000000000000000": {},
		"3b7fffffffffffffff": {-1 << 63, true}, "3b8000000000000000": {}, "1c": {}, "1f": {}, "": {}, "18": {}, "40": {}, "0000": {},
	} {
		raw, err := hex.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		c := cborscan.New(raw)
		if n := c.Int(); c.End() != want.ok || want.ok && n != want.n {
			t.Errorf("%s: %d, %v", encoded, n, c.End())
		}
	}
}

// FuzzAgainstTheGeneralDecoder: the cursor takes a shape exactly where decoding, encoding again and comparing takes it.
func FuzzAgainstTheGeneralDecoder(f *testing.F) {
	type shape struct {
		N uint64   `cbor:"1,keyasint"`
		I int64    `cbor:"2,keyasint"`
		B []byte   `cbor:"3,keyasint"`
		A [][]byte `cbor:"4,keyasint"`
		F [4]byte  `cbor:"5,keyasint"`
	}
	encoding, _ := cbor.CoreDetEncOptions().EncMode()
	decoding, _ := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField}.DecMode()
	for _, s := range []shape{{1, -1, []byte("x"), [][]byte{{1}, {}}, [4]byte{1}}, {1 << 40, 1 << 62, make([]byte, 300), [][]byte{}, [4]byte{}}} {
		raw, _ := encoding.Marshal(s)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var want, got shape
		general := decoding.Unmarshal(data, &want) == nil && want.B != nil && want.A != nil
		for _, b := range want.A {
			general = general && b != nil
		}
		if general {
			again, err := encoding.Marshal(want)
			general = err == nil && bytes.Equal(again, data)
		}
		c := cborscan.New(data)
		c.Map(5)
		c.Key(1)
		got.N = c.Uint()
		c.Key(2)
		got.I = c.Int()
		c.Key(3)
		got.B = c.Bytes()
		c.Key(4)
		for range c.Array(1000) {
			got.A = append(got.A, c.Bytes())
		}
		c.Key(5)
		c.Fixed(got.F[:])
		if c.End() != general {
			t.Fatalf("%x: cursor %v, general decoder %v", data, c.End(), general)
		}
	})
}
