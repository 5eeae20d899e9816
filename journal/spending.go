package journal

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/cborscan"
	"github.com/raypher/raypher/internal/strictcbor"
)

// Bounds of the entries of spending.
const (
	// MaxSpending bounds an amount or a number of tokens: far from the end of an integer, 9.2 billion dollars.
	MaxSpending = 1 << 53
	// MaxSpender bounds each name in a reservation, in bytes.
	MaxSpender = 128

	maxReservation = 5*(MaxSpender+3) + 192
	maxSettlement  = 64
)

// RequestID names one call of a provider: each attempt has its own.
type RequestID [16]byte

// String is the identifier in hexadecimal.
func (id RequestID) String() string { return fmt.Sprintf("%x", id[:]) }

// Reservation is the payload of an entry of TypeReservation: so much is held for a call before it leaves.
type Reservation struct {
	ID        RequestID
	Namespace string
	Agent     string // name
	Run       string // the run's id, as its visa has it
	Provider  string
	Model     string
	Worst     uint64 // micro-dollars that the call may cost at most
	Tokens    uint64 // that it may use at most
	Control   Hash   // of the cost_control.yaml that it was admitted under
	Prices    Hash   // of the prices that Worst was reckoned with
}

// Outcome says how a reservation ended.
type Outcome uint64

// The outcomes.
const (
	Settled   Outcome = 1 // the provider said what the call used
	Kept      Outcome = 2 // nobody knows: all that was held counts as spent
	Withdrawn Outcome = 3 // the call never left
)

// Settlement is the payload of an entry of TypeSettlement.
type Settlement struct {
	ID      RequestID
	Outcome Outcome
	Actual  uint64 // micro-dollars that the provider charges; 0 unless Settled
	Tokens  uint64 // that it counts; 0 unless Settled
	// Again: the journal may have lost what this repeats. It counts if the reservation is there and open, and else means nothing.
	Again bool
}

// Encode returns the payload.
func (r *Reservation) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("reservation: %w", err)
	}
	// By hand because every call of a model goes through here; the test compares it with a general encoder.
	out := make(cborscan.Output, 0, maxReservation)
	out.Map(10)
	out.Uint(1)
	out.Bytes(r.ID[:])
	for i, s := range []string{r.Namespace, r.Agent, r.Run, r.Provider, r.Model} {
		out.Uint(uint64(2 + i))
		out.Text(s)
	}
	out.Uint(7)
	out.Uint(r.Worst)
	out.Uint(8)
	out.Uint(r.Tokens)
	out.Uint(9)
	out.Bytes(r.Control[:])
	out.Uint(10)
	out.Bytes(r.Prices[:])
	return out, nil
}

// The same in the form of the general codec, for reading.
type wireReservation struct {
	ID        [16]byte `cbor:"1,keyasint"`
	Namespace string   `cbor:"2,keyasint"`
	Agent     string   `cbor:"3,keyasint"`
	Run       string   `cbor:"4,keyasint"`
	Provider  string   `cbor:"5,keyasint"`
	Model     string   `cbor:"6,keyasint"`
	Worst     uint64   `cbor:"7,keyasint"`
	Tokens    uint64   `cbor:"8,keyasint"`
	Control   [32]byte `cbor:"9,keyasint"`
	Prices    [32]byte `cbor:"10,keyasint"`
}

// DecodeReservation reads the payload of an entry of TypeReservation, from outside.
func DecodeReservation(payload []byte) (*Reservation, error) {
	var w wireReservation
	if err := strictcbor.Decode(payload, maxReservation, &w); err != nil {
		return nil, fmt.Errorf("reservation: %w", err)
	}
	r := &Reservation{
		ID: w.ID, Namespace: w.Namespace, Agent: w.Agent, Run: w.Run, Provider: w.Provider, Model: w.Model,
		Worst: w.Worst, Tokens: w.Tokens, Control: w.Control, Prices: w.Prices,
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("reservation: %w", err)
	}
	return r, nil
}

func (r *Reservation) check() error {
	if r.ID == (RequestID{}) {
		return errors.New("no request id")
	}
	for _, n := range []struct{ what, text string }{
		{"namespace", r.Namespace}, {"agent", r.Agent}, {"run", r.Run}, {"provider", r.Provider}, {"model", r.Model},
	} {
		if err := checkName(n.text); err != nil {
			return fmt.Errorf("%s: %w", n.what, err)
		}
	}
	if r.Worst > MaxSpending || r.Tokens > MaxSpending {
		return fmt.Errorf("%d micro-dollars and %d tokens, at most %d", r.Worst, r.Tokens, uint64(MaxSpending))
	}
	return nil
}

// checkName holds that a name is visible ASCII, so that it has one form wherever it is shown.
func checkName(s string) error {
	if s == "" || len(s) > MaxSpender {
		return fmt.Errorf("%d bytes, use 1 to %d", len(s), MaxSpender)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("%.140q has other bytes than visible ASCII", s)
		}
	}
	return nil
}

// Encode returns the payload.
func (s *Settlement) Encode() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("settlement: %w", err)
	}
	out := make(cborscan.Output, 0, maxSettlement)
	out.Map(5)
	out.Uint(1)
	out.Bytes(s.ID[:])
	out.Uint(2)
	out.Uint(uint64(s.Outcome))
	out.Uint(3)
	out.Uint(s.Actual)
	out.Uint(4)
	out.Uint(s.Tokens)
	out.Uint(5)
	if s.Again {
		out.Uint(1)
	} else {
		out.Uint(0)
	}
	return out, nil
}

// DecodeSettlement reads the payload of an entry of TypeSettlement, from outside.
func DecodeSettlement(payload []byte) (*Settlement, error) {
	c := cborscan.New(payload)
	var s Settlement
	c.Map(5)
	c.Key(1)
	c.Fixed(s.ID[:])
	c.Key(2)
	s.Outcome = Outcome(c.Uint())
	c.Key(3)
	s.Actual = c.Uint()
	c.Key(4)
	s.Tokens = c.Uint()
	c.Key(5)
	again := c.Uint()
	s.Again = again == 1
	if !c.End() || again > 1 {
		return nil, fmt.Errorf("settlement: %w", strictcbor.ErrEncoding)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("settlement: %w", err)
	}
	return &s, nil
}

func (s *Settlement) check() error {
	switch {
	case s.ID == RequestID{}:
		return errors.New("no request id")
	case s.Outcome < Settled || s.Outcome > Withdrawn:
		return fmt.Errorf("outcome %d is none of 1, 2, 3", s.Outcome)
	case s.Outcome != Settled && (s.Actual != 0 || s.Tokens != 0):
		return errors.New("an amount without usage")
	case s.Actual > MaxSpending || s.Tokens > MaxSpending:
		return fmt.Errorf("%d micro-dollars and %d tokens, at most %d", s.Actual, s.Tokens, uint64(MaxSpending))
	}
	return nil
}
