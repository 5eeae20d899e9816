package carrier

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// What one side writes the other reads, and leaves what follows.
func TestPrefaces(t *testing.T) {
	for _, id := range []string{"a", "0123456789ab", strings.Repeat("x", MaxAgent)} {
		b, err := AgentPreface(id)
		if err != nil {
			t.Fatal(err)
		}
		r := bytes.NewReader(append(b, "GET"...))
		if got, err := ReadAgent(r); err != nil || got != id || r.Len() != 3 {
			t.Errorf("%q: %q, %v, %d bytes left", id, got, err, r.Len())
		}
	}
	for _, id := range []string{"", strings.Repeat("x", MaxAgent+1)} {
		if _, err := AgentPreface(id); !errors.Is(err, ErrMalformed) {
			t.Errorf("id of %d bytes: %v", len(id), err)
		}
	}
	r := bytes.NewReader(append(NumberPreface(1<<40+7), 'x'))
	if n, err := ReadNumber(r); err != nil || n != 1<<40+7 || r.Len() != 1 {
		t.Errorf("%d, %v, %d bytes left", n, err, r.Len())
	}
}

// FuzzReadAgent: what is read writes the same bytes again.
func FuzzReadAgent(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{1, 'a'})
	f.Add([]byte{4, 'a'})
	f.Fuzz(func(t *testing.T, data []byte) {
		id, err := ReadAgent(bytes.NewReader(data))
		if err != nil {
			return
		}
		if b, err := AgentPreface(id); err != nil || !bytes.HasPrefix(data, b) {
			t.Errorf("%x: %q, %v", data, id, err)
		}
	})
}
