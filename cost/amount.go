package cost

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Amount is money in micro-dollars: millionths of a US dollar. All sums of this project are whole numbers of these; nothing is ever
// a floating point number.
type Amount uint64

// MaxAmount bounds an amount: 9.2 billion dollars, so that thousands of them still add up within 64 bits.
const MaxAmount Amount = 1 << 53

// decimals of a dollar in an Amount.
const decimals = 6

// ErrAmount means that a text is no amount.
var ErrAmount = errors.New("write dollars like 12.50, with at most 6 decimals and no sign, exponent or unit")

// ParseAmount reads dollars as a decimal number: digits, and perhaps a point and one to six digits. There is no rounding: what is
// finer than a micro-dollar is an error.
func ParseAmount(text string) (Amount, error) {
	whole, fraction, point := strings.Cut(text, ".")
	if !digits(whole) || point && !digits(fraction) || len(fraction) > decimals {
		return 0, ErrAmount
	}
	value, err := strconv.ParseUint(whole+fraction+strings.Repeat("0", decimals-len(fraction)), 10, 64)
	if err != nil || Amount(value) > MaxAmount {
		return 0, fmt.Errorf("more than %s dollars", MaxAmount)
	}
	return Amount(value), nil
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// String writes dollars with at least two decimals: 12.50, 0.000125. ParseAmount reads it back.
func (a Amount) String() string {
	s := fmt.Sprintf("%d.%06d", uint64(a)/1_000_000, uint64(a)%1_000_000)
	for len(s)-strings.IndexByte(s, '.') > 3 && s[len(s)-1] == '0' {
		s = s[:len(s)-1]
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (a Amount) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Amount) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAmount(string(text))
	return err
}
