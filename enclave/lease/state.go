package lease

import (
	"fmt"
)

// State is a fold as a snapshot keeps it.
type State struct {
	Signed                 []byte // grant in force; nil: none
	Counter, Taken, Handed uint64
}

// State is what RestoreFold makes the same fold from.
func (f *Fold) State() State {
	s := State{Counter: f.counter, Taken: f.taken, Handed: f.handed}
	if f.grant != nil {
		s.Signed = f.grant.signed
	}
	return s
}

// RestoreFold is the fold whose State was s. The grant must be signed by one of the operator keys (PKIX DER).
func RestoreFold(s State, operatorKeys [][]byte) (*Fold, error) {
	f := &Fold{keys: operatorKeys, counter: s.Counter, taken: s.Taken, handed: s.Handed}
	if len(s.Signed) == 0 {
		return f, nil
	}
	g, err := Open(s.Signed, operatorKeys)
	if err != nil {
		return nil, fmt.Errorf("grant of a snapshot: %w", err)
	}
	f.grant = g
	return f, nil
}
