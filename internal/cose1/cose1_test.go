package cose1

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/raypher/raypher/internal/strictcbor"
)

type header struct {
	Algorithm int64  `cbor:"1,keyasint"`
	Type      string `cbor:"16,keyasint,omitempty"`
}

const limit = 256

func example() *Message {
	return &Message{
		Protected: strictcbor.Encode(header{AlgorithmES256, "t"}), Payload: []byte("payload"), Signature: bytes.Repeat([]byte{7}, SignatureSize),
	}
}

// TestForm: the bytes are those of RFC 9052, and no others are read.
func TestForm(t *testing.T) {
	data := example().Encode()
	const want = "d28446a201261061" + "74" + "a0" + "477061796c6f6164" + "5840"
	if got := hex.EncodeToString(data[:len(want)/2]); got != want {
		t.Errorf("encoded as %s, want %s", got, want)
	}
	const signed = "846a5369676e61747572653146a2012610617440477061796c6f6164"
	if got := hex.EncodeToString(ToBeSigned(example().Protected, example().Payload)); got != signed {
		t.Errorf("signed is %s, want %s", got, signed)
	}
	var h header
	m, err := Decode(data, limit, &h)
	if err != nil || h != (header{AlgorithmES256, "t"}) || !bytes.Equal(m.Encode(), data) {
		t.Errorf("%+v, %+v, %v", m, h, err)
	}
	changed := func(change func(*Message)) []byte {
		m := example()
		change(m)
		return m.Encode()
	}
	for name, bad := range map[string][]byte{
		"nothing":                       nil,
		"too long":                      changed(func(m *Message) { m.Payload = make([]byte, limit) }),
		"without tag":                   data[1:],
		"another tag":                   append([]byte{0xd1}, data[1:]...),
		"bytes behind it":               append(bytes.Clone(data), 0),
		"cut off":                       data[:len(data)-1],
		"a short signature":             changed(func(m *Message) { m.Signature = m.Signature[1:] }),
		"no payload":                    changed(func(m *Message) { m.Payload = nil }),
		"an empty payload":              changed(func(m *Message) { m.Payload = []byte{} }),
		"an unprotected header":         bytes.Replace(data, []byte{0x61, 't', 0xa0}, []byte{0x61, 't', 0xa1, 4, 0x40}, 1),
		"a header that is none":         changed(func(m *Message) { m.Protected = []byte{0x40} }),
		"a header with an unknown key":  changed(func(m *Message) { m.Protected = strictcbor.Encode(map[int]int{1: -7, 99: 1}) }),
		"a number longer than it needs": bytes.Replace(data, []byte{0x58, 0x40}, []byte{0x59, 0x00, 0x40}, 1),
	} {
		if m, err := Decode(bad, limit, new(header)); err == nil {
			t.Errorf("%s: read as %+v", name, m)
		}
	}
}

// FuzzDecode: what is read is written again byte by byte.
func FuzzDecode(f *testing.F) {
	f.Add(example().Encode())
	f.Add([]byte{Tag, 0x84})
	f.Fuzz(func(t *testing.T, data []byte) {
		var h header
		m, err := Decode(data, limit, &h)
		if err != nil {
			return
		}
		if !bytes.Equal(m.Encode(), data) || !bytes.Equal(strictcbor.Encode(h), m.Protected) {
			t.Errorf("%x is read as %+v", data, m)
		}
	})
}
