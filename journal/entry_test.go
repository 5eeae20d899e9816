package journal_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// The hand-written encoding of an entry is that of the general encoder, at the edges of every length. No payload is an empty
// byte string, not null.
func TestEntryEncodingByHand(t *testing.T) {
	for _, kind := range []journal.Type{1, 23, 24, 1000, math.MaxUint64} {
		for _, at := range []int64{0, -1, math.MinInt64, 1_800_000_000_123_456_789} {
			for _, payload := range [][]byte{nil, {}, {7}, make([]byte, 23), make([]byte, 24), make([]byte, 255), make([]byte, 256), make([]byte, 65000)} {
				e := journal.Entry{Type: kind, Time: at, Payload: payload}
				raw, err := e.Encode()
				if err != nil {
					t.Fatal(err)
				}
				e.Payload = append([]byte{}, payload...)
				if want := strictcbor.Encode(e); !bytes.Equal(raw, want) {
					t.Fatalf("%s at %d with %d bytes: %.40x, want %.40x", kind, at, len(payload), raw, want)
				}
			}
		}
	}
}
