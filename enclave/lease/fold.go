package lease

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/raypher/raypher/journal"
)

// Fold is what the lease entries of a journal add up to. The ledger keeps its own balances in one, so replaying the journal gives
// the same. A journal that does not fold (a lease twice, a counter that went back, credit without a grant) is not the work of
// one enclave.
type Fold struct {
	keys    [][]byte
	grant   *Grant
	counter uint64 // of the newest entry
	taken   uint64 // number of the newest lease of the grant, or what was taken when it came into force
	handed  uint64 // sum of the leases of the grant in the journal, in its unit
}

// NewFold starts with an empty journal. Grants in it must be signed by one of the operator keys (PKIX DER).
func NewFold(operatorKeys [][]byte) *Fold { return &Fold{keys: operatorKeys} }

// Grant is the one in force, or nil.
func (f *Fold) Grant() *Grant { return f.grant }

// Taken is how many leases of the grant were taken as far as the journal knows, with those that were lost before the newest.
func (f *Fold) Taken() uint64 { return f.taken }

// Handed is the sum of the leases that the journal holds, in the grant's unit. At most this much was spent.
func (f *Fold) Handed() uint64 { return f.handed }

// Left is what the leases that were not taken yet hold.
func (f *Fold) Left() uint64 {
	if f.grant == nil {
		return 0
	}
	return f.grant.Left(f.taken)
}

// Apply adds one entry. After an error the fold is as before.
func (f *Fold) Apply(l *journal.Lease) error {
	if l.Number == 0 {
		return f.begin(l)
	}
	g := f.grant
	switch {
	case g == nil || g.Hash != l.Grant || g.Version != l.Version || g.Anchor != l.Anchor:
		return fmt.Errorf("lease %d of grant %x: it is not the grant in force", l.Number, l.Grant)
	case l.Counter <= f.counter:
		return fmt.Errorf("lease %d: the counter was at %d before and is at %d: it went back, or the lease was taken twice", l.Number, f.counter, l.Counter)
	case l.Number != l.Counter-g.Baseline:
		return fmt.Errorf("lease %d: the counter at %d and the baseline %d make it number %d", l.Number, l.Counter, g.Baseline, l.Counter-g.Baseline)
	case l.Amount != g.Amount(l.Number):
		return fmt.Errorf("lease %d: %d, in the grant it is %d", l.Number, l.Amount, g.Amount(l.Number))
	}
	f.counter, f.taken, f.handed = l.Counter, l.Number, f.handed+l.Amount
	return nil
}

// begin puts a grant in force, or again at the start of an epoch.
func (f *Fold) begin(l *journal.Lease) error {
	if sha256.Sum256(l.Signed) != l.Grant {
		return errors.New("grant: not the one that the entry names")
	}
	g, err := Open(l.Signed, f.keys)
	if err != nil {
		return err
	}
	same := f.grant != nil && g.Hash == f.grant.Hash
	switch {
	case g.Version != l.Version || g.Anchor != l.Anchor:
		return fmt.Errorf("grant of version %d: the entry names another version or counter", g.Version)
	case l.Counter < g.Baseline:
		return fmt.Errorf("grant of version %d: the counter is at %d, below its baseline %d", g.Version, l.Counter, g.Baseline)
	case f.grant != nil && !same && g.Version <= f.grant.Version:
		return fmt.Errorf("%w: %d after %d", ErrVersion, g.Version, f.grant.Version)
	case f.grant != nil && g.Anchor == f.grant.Anchor && l.Counter < f.counter:
		return fmt.Errorf("grant of version %d: the counter was at %d before and is at %d: it went back", g.Version, f.counter, l.Counter)
	}
	if !same {
		f.handed = 0
	}
	f.grant, f.counter, f.taken = g, l.Counter, l.Counter-g.Baseline
	return nil
}
