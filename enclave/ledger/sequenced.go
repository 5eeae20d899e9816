package ledger

import sequencer "github.com/raypher/raypher/enclave/journal"

// Sequenced is the journal of an enclave as the ledger uses it.
func Sequenced(s *sequencer.Sequencer) Journal { return sequenced{s} }

type sequenced struct{ *sequencer.Sequencer }

// TryAppend implements Journal.
func (s sequenced) TryAppend(then func(error), entries ...[]byte) (taken bool, err error) {
	return s.Sequencer.TryAppend(func(p *sequencer.Pending) {
		_, err := p.Placed()
		then(err)
	}, entries...)
}
