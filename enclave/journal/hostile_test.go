package sequencer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// A parent that breaks the protocol is cut, and what it lied about is not released.
func TestHostileAcknowledgements(t *testing.T) {
	for _, c := range []struct {
		name string
		lie  func(s *Sequencer, p *parent, sent uint64)
		want error
	}{
		{"more than was sent", func(s *Sequencer, p *parent, sent uint64) { p.ack(s.opts.Epoch, sent+1) }, ErrProtocol},
		{"far more than was sent", func(s *Sequencer, p *parent, sent uint64) { p.ack(s.opts.Epoch, 1<<63) }, ErrProtocol},
		{"backwards", func(s *Sequencer, p *parent, sent uint64) { p.ack(s.opts.Epoch, 0) }, ErrProtocol},
		{"the last one again", func(s *Sequencer, p *parent, sent uint64) { p.ack(s.opts.Epoch, 1) }, ErrProtocol},
		{"inside a batch", func(s *Sequencer, p *parent, sent uint64) { p.ack(s.opts.Epoch, sent-1) }, ErrProtocol},
		{"another epoch", func(s *Sequencer, p *parent, sent uint64) { p.ack(journal.EpochID{9}, sent) }, ErrProtocol},
		{"a second Attach", func(s *Sequencer, p *parent, sent uint64) { p.attach(&enclavev1.Attach{}) }, ErrProtocol},
		{"an empty message", func(s *Sequencer, p *parent, sent uint64) { p.say(&enclavev1.PersistRequest{}) }, ErrProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p, _ := begun(t)
			entries := [][]byte{[]byte("one"), []byte("two")}
			result := make(chan outcome, 1)
			go func() {
				placed, err := s.Append(t.Context(), entries...)
				result <- outcome{placed, err}
			}()
			b := p.batch(t)
			c.lie(s, p, end(b))
			if err := p.end(t); !errors.Is(err, c.want) {
				t.Errorf("stream ended with %v, want %v", err, c.want)
			}
			held(t, result, c.name)

			// An honest stream gets the batch again, and only then is the caller released.
			p = connect(t, s)
			p.attach(&enclavev1.Attach{Epoch: s.opts.Epoch[:], Size: 1, SignedHead: s.lastHead})
			again := p.batch(t)
			if string(again.GetSignedHead()) != string(b.GetSignedHead()) || end(again) != end(b) {
				t.Error("another batch was sent the second time")
			}
			held(t, result, "sent again")
			p.ack(s.opts.Epoch, end(again))
			if o := released(t, result); o.err != nil || o.placed.First != 1 {
				t.Errorf("%+v", o)
			}
		})
	}
}

// What a parent says of its store when it attaches is held against what this epoch knows.
func TestHostileAttach(t *testing.T) {
	for _, c := range []struct {
		name string
		say  func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach
		want error // nil: accepted
	}{
		{"what was acknowledged", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{Epoch: s.opts.Epoch[:], Size: end(first), SignedHead: first.GetSignedHead()}
		}, nil},
		{"what was sent, its acknowledgement lost", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{Epoch: s.opts.Epoch[:], Size: end(second), SignedHead: second.GetSignedHead()}
		}, nil},
		{"an empty store after entries were acknowledged", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{}
		}, ErrStore},
		{"less than was acknowledged", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{Epoch: s.opts.Epoch[:], Size: end(first) - 1, SignedHead: first.GetSignedHead()}
		}, ErrProtocol}, // size 0 with a head
		{"more than was sent", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{Epoch: s.opts.Epoch[:], Size: end(second) + 1, SignedHead: second.GetSignedHead()}
		}, ErrStore},
		{"the right size under another head", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{Epoch: s.opts.Epoch[:], Size: end(second), SignedHead: first.GetSignedHead()}
		}, ErrStore},
		{"another epoch", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{Epoch: make([]byte, 16), Size: end(first), SignedHead: first.GetSignedHead()}
		}, ErrStore},
		{"an epoch of the wrong length", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{Epoch: []byte{1}, Size: 1, SignedHead: first.GetSignedHead()}
		}, ErrProtocol},
		{"a size without an epoch", func(s *Sequencer, first, second *enclavev1.Batch) *enclavev1.Attach {
			return &enclavev1.Attach{Size: 5}
		}, ErrProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p, first := begun(t)
			_, result := appendOne(t, s, "sent")
			second := p.batch(t)
			p.cancel()
			p.end(t)
			p = connect(t, s)
			p.attach(c.say(s, first, second))
			if c.want != nil {
				if err := p.end(t); !errors.Is(err, c.want) {
					t.Errorf("stream ended with %v, want %v", err, c.want)
				}
				held(t, result, c.name)
				return
			}
			select {
			case <-p.accepted:
			case <-time.After(patience):
				t.Fatal("not accepted")
			}
			if s.Size() == 1 {
				p.ack(s.opts.Epoch, end(p.batch(t)))
			}
			if o := released(t, result); o.err != nil {
				t.Error(o.err)
			}
		})
	}
}

// A second stream takes over; the first is cut and its late acknowledgement counts for nothing.
func TestSecondStreamReplacesTheFirst(t *testing.T) {
	s, first, _ := begun(t)
	_, result := appendOne(t, s, "sent")
	b := first.batch(t)
	second := connect(t, s)
	second.attach(&enclavev1.Attach{Epoch: s.opts.Epoch[:], Size: 1, SignedHead: s.lastHead})
	if err := first.end(t); !errors.Is(err, errReplaced) {
		t.Errorf("first stream ended with %v", err)
	}
	held(t, result, "after the takeover")
	if again := second.batch(t); end(again) != end(b) {
		t.Error("another batch")
	}
	second.ack(s.opts.Epoch, end(b))
	if o := released(t, result); o.err != nil {
		t.Error(o.err)
	}
}

// A stream that fails to attach does not disturb the one that is attached.
func TestBadAttachLeavesTheStreamAlone(t *testing.T) {
	s, p, _ := begun(t)
	bad := connect(t, s)
	bad.attach(&enclavev1.Attach{})
	if err := bad.end(t); !errors.Is(err, ErrStore) {
		t.Errorf("bad stream ended with %v", err)
	}
	_, result := appendOne(t, s, "still works")
	p.ack(s.opts.Epoch, end(p.batch(t)))
	if o := released(t, result); o.err != nil {
		t.Error(o.err)
	}
}

func TestFirstMessageMustBeAttach(t *testing.T) {
	s := newSequencer(t, newKey(t))
	p := connect(t, s)
	p.ack(s.opts.Epoch, 1)
	if err := p.end(t); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
	p = connect(t, s)
	close(p.up)
	if err := p.end(t); err == nil {
		t.Error("a stream that ends at once is fine")
	}
}

// Entry 0 names the predecessor, which must be proven by a key that this enclave may follow.
func TestPredecessor(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	old := newSequencer(t, key)
	p := connect(t, old)
	p.attach(&enclavev1.Attach{})
	b := p.batch(t)
	good := func() *enclavev1.Attach {
		return &enclavev1.Attach{Epoch: old.opts.Epoch[:], Size: end(b), SignedHead: b.GetSignedHead(), KeyEvidence: old.evidence.Encode()}
	}
	other := newSequencer(t, stranger)
	strangerID := other.key.ID()

	for _, c := range []struct {
		name    string
		bend    func(a *enclavev1.Attach)
		allowed [][32]byte
		want    string // of the error; empty: accepted
	}{
		{"the same key", func(a *enclavev1.Attach) {}, nil, ""},
		{"no evidence", func(a *enclavev1.Attach) { a.KeyEvidence = nil }, nil, "key evidence"},
		{"evidence of a stranger", func(a *enclavev1.Attach) { a.KeyEvidence = other.evidence.Encode() }, nil, "may not follow"},
		{"evidence of a stranger that is allowed, head of another", func(a *enclavev1.Attach) { a.KeyEvidence = other.evidence.Encode() }, [][32]byte{strangerID}, "signed by a key that is not the expected one"},
		{"another size than was signed", func(a *enclavev1.Attach) { a.Size++ }, nil, "the signed head says"},
		{"another epoch than was signed", func(a *enclavev1.Attach) { a.Epoch = make([]byte, 16) }, nil, "the signed head says"},
		{"a bent head", func(a *enclavev1.Attach) { a.SignedHead[len(a.SignedHead)-1] ^= 1 }, nil, "signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSequencer(t, key, c.allowed...)
			a := good()
			a.SignedHead = append([]byte(nil), a.GetSignedHead()...)
			c.bend(a)
			p := connect(t, s)
			p.attach(a)
			if c.want != "" {
				err := p.end(t)
				if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("stream ended with %v, want %q", err, c.want)
				}
				// The refusal leaves the epoch as it was: an honest parent can begin it.
				p = connect(t, s)
				p.attach(good())
			}
			zero, err := journal.Decode(p.batch(t).GetEntries()[0])
			if err != nil {
				t.Fatal(err)
			}
			start, err := journal.DecodeEpochStart(zero.Payload)
			if err != nil || start.Predecessor == nil || start.Predecessor.Epoch != old.opts.Epoch || start.Predecessor.Size != end(b) {
				t.Errorf("entry 0: %+v, %v", start, err)
			}
		})
	}

	t.Run("a key that the configuration allows", func(t *testing.T) {
		id := old.key.ID()
		s := newSequencer(t, stranger, id)
		p := connect(t, s)
		p.attach(good())
		p.batch(t)
	})
}
