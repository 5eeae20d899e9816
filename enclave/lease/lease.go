// Package lease hands out credit (money, or visas) so that a machine that is set back cannot spend it twice.
//
// An operator signs a grant: so much of a unit, in this month, on this host. The enclave spends it in leases, small slices of the
// grant (1 % by default). Before a lease can be spent, one step is taken at an anchor outside the process, a counter that only
// goes up: in a TPM, and on Nitro at the controller. The grant names the anchor and the counter's value when it was signed, the
// baseline, so
//
//	leases taken = counter - baseline
//
// holds without any file or journal. A restart, a state folder or journal of yesterday, and a clone all find the counter where it
// is: what was left of the open lease is forfeited, and no lease is spent twice. Order: counter, entry in the journal, and only
// then credit. What dies in between loses one lease and never doubles one.
//
// The ledger fails closed: no grant, no anchor, another anchor, a counter that went back or moved without this process, a clock
// outside the grant's month, all mean no credit, with words that say what an operator does next.
package lease

import (
	"context"
	"errors"
)

// Errors that callers tell apart.
var (
	ErrMalformed = errors.New("grant is malformed")
	ErrSignature = errors.New("grant is not signed by an operator key of this enclave")
	ErrVersion   = errors.New("versions of grants only go upwards")
	// ErrNoCredit: nothing can be spent until an operator does something; the message says what.
	ErrNoCredit = errors.New("no credit")
	// ErrNoStore: nothing can be put on record, so no lease is taken and no grant installed.
	ErrNoStore = errors.New("no store is attached, and leases and grants must be on record: wait until the parent has connected its journal")
	// ErrExhausted: all leases of the grant are taken.
	ErrExhausted = errors.New("the grant is used up")
	// ErrPace: leases are being taken faster than the anchor may wear.
	ErrPace = errors.New("leases are taken too fast")
	// ErrAnchor: the anchor failed, or cannot be believed.
	ErrAnchor = errors.New("the counter of leases")
	// ErrContended: somebody else counted at the same time; the lease is lost.
	ErrContended = errors.New("somebody else counted at the same time")
)

// Anchor is where leases are counted: outside the process, so that setting the process, its files or its journal back does
// not set the count back. Its methods may be called concurrently. They fail rather than wait for long: credit is closed
// meanwhile.
type Anchor interface {
	// ID names the counter and what it lies in: another TPM, or a counter that was made anew, has another. One that lies elsewhere is known
	// with the first Read; before that it is zero.
	ID() [32]byte
	// Tier is one of the tiers of package journal. An anchor of tier software is no protection.
	Tier() string
	// Read returns the counter, and the highest version of a grant that was ever in force on this anchor.
	Read(ctx context.Context) (Reading, error)
	// Take adds one to the counter in one atomic step and returns its value after that. No two calls that succeed, of any
	// process, return the same value. After an error the step may have been taken: that lease is lost. After ErrContended somebody
	// else's was, and perhaps this one too.
	Take(ctx context.Context) (counter uint64, err error)
	// Raise keeps a version of a grant as the highest. A lower one than is kept changes nothing.
	Raise(ctx context.Context, version uint64) error
}

// Reading is the state of an anchor.
type Reading struct {
	Counter uint64
	Version uint64
}

// None is the anchor of an enclave that has none: reason says why, and nothing is ever granted.
func None(tier string, reason error) Anchor { return none{tier, reason} }

type none struct {
	tier   string
	reason error
}

func (n none) ID() [32]byte                                   { return [32]byte{} }
func (n none) Tier() string                                   { return n.tier }
func (n none) Read(context.Context) (Reading, error)          { return Reading{}, n.err() }
func (n none) Take(context.Context) (counter uint64, e error) { return 0, n.err() }
func (n none) Raise(context.Context, uint64) error            { return n.err() }

func (n none) err() error { return errors.Join(ErrAnchor, n.reason) }
