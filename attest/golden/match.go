package golden

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/raypher/raypher/attest"
)

// Values are the PCRs of one machine, by index.
type Values map[uint64][]byte

// Match returns the set that allows the values of a tier at a time. PCRs that no set names are not looked at. Refusals name
// CheckValidity, when the list or every set with these values is out of time, else CheckValues.
func (l *List) Match(tier string, at time.Time, values Values) (*Set, error) {
	if err := inTime(l.NotBefore, l.NotAfter, at); err != nil {
		return nil, attest.Refuse(CheckValidity, "the list (version %d) %w", l.Version, err)
	}
	var late error
	var why []string
	for _, s := range l.Sets {
		if s.Tier != tier {
			continue
		}
		if different := s.Differences(values); len(different) > 0 {
			why = append(why, fmt.Sprintf("set %q: %s", s.Name, different[0]))
			continue
		}
		err := inTime(s.NotBefore, s.NotAfter, at)
		if err == nil {
			return s, nil
		}
		late = attest.Refuse(CheckValidity, "set %q matches, and %w", s.Name, err)
	}
	if late != nil {
		return nil, late
	}
	if len(why) == 0 {
		return nil, attest.Refuse(CheckValues, "version %d of the list has no set of tier %s", l.Version, tier)
	}
	const shown = 4
	if more := len(why) - shown; more > 0 {
		why = append(why[:shown], fmt.Sprintf("and %d sets more", more))
	}
	return nil, attest.Refuse(CheckValues, "no set matches: %s", strings.Join(why, "; "))
}

// Differences says, PCR by PCR, why values are not those of the set. None: they are.
func (s *Set) Differences(values Values) []string {
	var out []string
	for _, r := range s.PCRs {
		value, ok := values[r.Index]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("PCR %d is not in the evidence", r.Index))
		case !slices.ContainsFunc(r.Values, func(v []byte) bool { return bytes.Equal(v, value) }):
			out = append(out, fmt.Sprintf("PCR %d is %x, allowed: %s", r.Index, value, hexadecimal(r.Values)))
		}
	}
	return out
}

func hexadecimal(values [][]byte) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprintf("%x", v)
	}
	return strings.Join(words, " or ")
}

func inTime(from, to, at time.Time) error {
	at = at.Truncate(time.Second)
	if at.Before(from) {
		return fmt.Errorf("holds from %s, checked for %s", stamp(from), stamp(at))
	}
	if at.After(to) {
		return fmt.Errorf("ended on %s, checked for %s", stamp(to), stamp(at))
	}
	return nil
}
