package journal

import (
	"errors"
	"fmt"
	"strings"

	"github.com/raypher/raypher/internal/strictcbor"
)

// Bounds of a verdict's strings, in bytes.
const (
	MaxTarget      = 4096
	MaxVerdictText = 256
	maxVerdictSize = MaxTarget + 8*MaxVerdictText + 256
)

// EncodeVerdict returns the payload of a verdict entry. What the guard saw may be anything: strings are made valid UTF-8
// (other bytes become U+FFFD) and cut to their bounds; a Count of 0 becomes 1. An unknown decision or a verdict of no
// agent is an error.
func EncodeVerdict(v Verdict) ([]byte, error) {
	for _, s := range v.texts() {
		*s.text = cut(*s.text, s.limit)
	}
	v.Count = max(v.Count, 1)
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("verdict: %w", err)
	}
	return strictcbor.Encode(&v), nil
}

// DecodeVerdict reads a verdict from outside: unknown keys, other encodings and what exceeds the bounds are refused.
func DecodeVerdict(data []byte) (Verdict, error) {
	var v Verdict
	if err := strictcbor.Decode(data, maxVerdictSize, &v); err != nil {
		return Verdict{}, fmt.Errorf("verdict: %w", err)
	}
	if err := v.check(); err != nil {
		return Verdict{}, fmt.Errorf("verdict: %w", err)
	}
	return v, nil
}

type boundedText struct {
	name  string
	text  *string
	limit int
}

func (v *Verdict) texts() []boundedText {
	return []boundedText{
		{"agent", &v.AgentID, MaxVerdictText}, {"subject", &v.Subject, MaxVerdictText}, {"comm", &v.Comm, MaxVerdictText},
		{"layer", &v.Layer, MaxVerdictText}, {"operation", &v.Operation, MaxVerdictText}, {"target", &v.Target, MaxTarget},
		{"rule", &v.Rule, MaxVerdictText},
	}
}

func (v *Verdict) check() error {
	for _, s := range v.texts() {
		if len(*s.text) > s.limit {
			return fmt.Errorf("%s: %d bytes, the limit is %d", s.name, len(*s.text), s.limit)
		}
	}
	switch v.Decision {
	case Block, WouldBlock, WouldAsk, Log, Allow:
	default:
		return fmt.Errorf("decision %.32q is none of block, would-block, would-ask, log, allow", v.Decision)
	}
	if v.AgentID == "" || v.Operation == "" {
		return errors.New("no agent or no operation")
	}
	if v.Count == 0 {
		return errors.New("a count of 0")
	}
	if len(v.VisaID) > MaxNonceSize {
		return fmt.Errorf("visa: an identifier of %d bytes, the limit is %d", len(v.VisaID), MaxNonceSize)
	}
	return nil
}

// cut makes s valid UTF-8 of at most limit bytes.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= limit {
		return s
	}
	// ToValidUTF8 again drops the character that the cut went through.
	return strings.ToValidUTF8(s[:limit], "")
}
