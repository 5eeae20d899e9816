package journal

import (
	"bytes"
	"testing"
)

func TestLease(t *testing.T) {
	for _, c := range []struct {
		name string
		l    Lease
		ok   bool
	}{
		{"a lease", Lease{Counter: 12, Number: 2, Amount: 5}, true},
		{"a grant", Lease{Counter: 0, Signed: []byte{1}}, true},
		{"a lease of nothing", Lease{Counter: 12, Number: 2}, false},
		{"a lease with a grant", Lease{Counter: 12, Number: 2, Amount: 5, Signed: []byte{1}}, false},
		{"a lease above the counter", Lease{Counter: 1, Number: 2, Amount: 5}, false},
		{"a grant with an amount", Lease{Amount: 1, Signed: []byte{1}}, false},
		{"a grant without itself", Lease{}, false},
		{"a grant that is too large", Lease{Signed: make([]byte, MaxGrantSize+1)}, false},
	} {
		payload, err := c.l.Encode()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			continue
		}
		if again, err := DecodeLease(payload); err != nil || again.Counter != c.l.Counter || again.Number != c.l.Number || !bytes.Equal(again.Signed, c.l.Signed) {
			t.Errorf("%s: %+v, %v", c.name, again, err)
		}
	}
}

func FuzzDecodeLease(f *testing.F) {
	for _, l := range []Lease{{Counter: 12, Number: 2, Amount: 5}, {Signed: []byte{1}}} {
		payload, err := l.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		l, err := DecodeLease(payload)
		if err != nil {
			return
		}
		if again, err := l.Encode(); err != nil || !bytes.Equal(again, payload) {
			t.Errorf("encoded again it differs: %v", err)
		}
	})
}
