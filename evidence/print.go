package evidence

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// View is verified evidence for people and for other programs.
type View struct {
	Epoch      string            `json:"epoch"`
	Index      uint64            `json:"index"`
	Type       string            `json:"type"`
	Time       time.Time         `json:"time"` // of the entry, by the enclave's clock
	Tier       string            `json:"tier"`
	Key        string            `json:"enclave_key"` // SHA-256 of its PKIX DER
	Pinned     bool              `json:"enclave_key_pinned"`
	TreeSize   uint64            `json:"tree_size"`
	TreeRoot   string            `json:"tree_root"`
	SignedTime time.Time         `json:"signed_time"`
	Verdict    *journal.Verdict  `json:"verdict,omitempty"`
	Approval   *journal.Approval `json:"approval,omitempty"`
	Visa       *visa.View        `json:"visa,omitempty"`
}

// View returns what was proven for display.
func (p *Proven) View() View {
	v := View{
		Epoch: p.Head.Epoch.String(), Index: p.Index, Type: p.Entry.Type.String(), Time: p.Entry.When().UTC(), Tier: p.Head.Tier, Key: p.Key.String(), Pinned: p.Pinned,
		TreeSize: p.Head.Size, TreeRoot: hex.EncodeToString(p.Head.Root[:]), SignedTime: p.Head.When().UTC(), Verdict: p.Verdict, Approval: p.Approval,
	}
	if p.Visa != nil {
		claims := p.Visa.View()
		v.Visa = &claims
	}
	return v
}

// Print writes the view for a person. What comes from outside is escaped, so that it cannot command a terminal.
func (v View) Print(w io.Writer) error {
	text := fmt.Sprintf("entry %d of epoch %s, type %s, %s\n", v.Index, v.Epoch, v.Type, v.Time.Format(time.RFC3339Nano))
	if d := v.Verdict; d != nil {
		text += fmt.Sprintf("  %s %s %s\n  held by %s", d.Decision, d.Operation, Printable(d.Target), Printable(d.Layer))
		if d.Rule != "" {
			text += ", rule " + Printable(d.Rule)
		} else {
			text += ", nothing granted it"
		}
		if d.AsPassed {
			text += " (path as the program passed it)"
		}
		if d.Count > 1 {
			text += fmt.Sprintf(", %d times", d.Count)
		}
		text += fmt.Sprintf("\n  agent %s, %s, pid %d (%s)\n", Printable(d.AgentID), Printable(d.Subject), d.PID, Printable(d.Comm))
	}
	if a := v.Approval; a != nil {
		text += approvalText(a)
	}
	if c := v.Visa; c != nil {
		text += fmt.Sprintf("  visa %s of %s, permit sha256:%s\n", c.ID, Printable(c.Subject), c.PermitHash)
	}
	trust := "pinned"
	if !v.Pinned {
		trust = "not pinned: only its own evidence vouches for it"
	}
	text += fmt.Sprintf("  proven under a tree of %d entries, signed %s\n  tier %s, enclave key %s (%s)\n",
		v.TreeSize, v.SignedTime.Format(time.RFC3339), v.Tier, v.Key, trust)
	_, err := io.WriteString(w, text)
	return err
}

// approvalText is what a person answered, and who.
func approvalText(a *journal.Approval) string {
	q := a.Question
	text := fmt.Sprintf("  %s %s %s", a.Decision, Printable(q.Operation), Printable(q.Target))
	if q.Other != "" {
		text += " " + Printable(q.Other)
	}
	switch a.Scope {
	case journal.ScopeRun:
		text += ", and equal calls of the run"
	case journal.ScopeDuration:
		text += fmt.Sprintf(", and equal calls for %s", time.Duration(a.Seconds)*time.Second)
	}
	who := "nobody answered in time"
	if a.Who != nil {
		who = fmt.Sprintf("answered by %s (uid %d, pid %d, as the parent asserts)", Printable(a.Who.User), a.Who.UID, a.Who.PID)
	}
	return text + fmt.Sprintf("\n  %s, %s after the question of rule %s\n  agent %s, %s, pid %d (%s)\n", who,
		time.Duration(a.Time-a.Asked).Round(time.Millisecond), Printable(q.Rule), Printable(a.AgentID), Printable(a.Subject), q.PID, Printable(q.Comm))
}

// Printable escapes backslashes, control characters and what is not printable. Quotation marks stay.
func Printable(text string) string {
	quoted := strconv.QuoteToGraphic(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
