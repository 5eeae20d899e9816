package enclave

import (
	"context"
	"crypto"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/enclave/spending"
	"github.com/raypher/raypher/journal"
)

// openSpending opens the ledger of money on the journal.
func (s *Server) openSpending() (err error) {
	var development crypto.Signer
	if s.opts.Development {
		key, _, err := ceiling.DevelopmentKey(s.opts.State)
		if err != nil {
			return err
		}
		development = key
	}
	s.spends, err = spending.Open(spending.Options{
		State: s.opts.State, OperatorKeys: s.opts.Configuration.OperatorKeys, Anchor: s.anchor(), Journal: ledger.Sequenced(s.journal),
		Record: func(ctx context.Context, entry []byte) error { return onRecord{s.journal}.Append(ctx, entry) }, Log: s.opts.Log, Development: development,
	})
	return err
}

// began is told what this epoch follows.
func (s *Server) began(predecessor *journal.Predecessor) {
	if predecessor != nil {
		return // what was spent before is for Replay to say
	}
	if err := s.spends.Begin(nil); err != nil {
		s.opts.Log.Error("ledger", "error", err)
	}
}
