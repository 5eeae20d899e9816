package sequencer

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// What a parent says of its store never panics, and is taken as a predecessor only when this enclave's own key signed it.
func FuzzAttach(f *testing.F) {
	key := newKey(f)
	old := newSequencer(f, key)
	p := connect(f, old)
	p.attach(&enclavev1.Attach{})
	b := p.batch(f)
	good, err := proto.Marshal(&enclavev1.Attach{Epoch: old.opts.Epoch[:], Size: end(b), SignedHead: b.GetSignedHead(), KeyEvidence: old.evidence.Encode()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Add([]byte{0x0a, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0x10, 1})
	s := newSequencer(f, key)
	f.Fuzz(func(t *testing.T, data []byte) {
		var a enclavev1.Attach
		if proto.Unmarshal(data, &a) != nil {
			return
		}
		c, err := readClaim(&a)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("error without a kind: %v", err)
			}
			return
		}
		predecessor, err := s.predecessor(c)
		if err != nil {
			if !errors.Is(err, ErrStore) {
				t.Errorf("error without a kind: %v", err)
			}
			return
		}
		if predecessor != nil && (predecessor.Epoch != old.opts.Epoch || predecessor.Size != end(b)) {
			t.Errorf("a predecessor that was never signed: %+v", predecessor)
		}
	})
}
