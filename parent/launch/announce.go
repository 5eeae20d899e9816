package launch

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// bound is what the first line says.
type bound struct {
	Event       string   `json:"event"`
	Message     string   `json:"message"`
	AgentID     string   `json:"agent_id"`
	Subject     string   `json:"subject"`
	Tier        string   `json:"tier"`
	Backend     string   `json:"backend"`
	PolicyHash  string   `json:"policy_hash"`
	VisaExpires string   `json:"visa_expires"` // RFC 3339
	Mode        string   `json:"mode,omitempty"`
	Development bool     `json:"development,omitempty"`
	Notes       []string `json:"notes,omitempty"`
}

// boundMessage starts the line; scripts look for it.
const boundMessage = "Successfully bound to Raypher kernel guard"

// announce says what this run is bound to.
func (r *runner) announce() {
	if r.options.Quiet {
		return
	}
	g := r.granted
	expires := time.Unix(g.ExpiresUnix, 0)
	b := bound{
		Event: "bound", Message: boundMessage, AgentID: g.AgentID, Subject: g.Subject, Tier: g.Tier, Backend: g.Backend,
		PolicyHash: "sha256:" + hex.EncodeToString(g.PolicyHash), VisaExpires: expires.UTC().Format(time.RFC3339),
		Mode: string(r.ready.permit.Mode), Development: g.Development, Notes: slices.Concat(g.Notes, r.ready.plan.Notes),
	}
	if r.options.JSON {
		if line, err := json.Marshal(b); err == nil {
			fmt.Fprintf(r.options.Stderr, "%s\n", line)
		}
		return
	}
	tier := b.Tier
	if b.Development {
		tier += " (development: keys and ceiling made by this host)"
	}
	fmt.Fprintf(r.options.Stderr, "raypher: %s\n", boundMessage)
	fmt.Fprintf(r.options.Stderr, "raypher:   agent %s %s, tier %s, backend %s\n", b.AgentID, b.Subject, tier, b.Backend)
	fmt.Fprintf(r.options.Stderr, "raypher:   policy %s, visa until %s\n", b.PolicyHash, expires.Format("15:04:05"))
	if b.Mode == "audit" || b.Mode == "permissive" {
		fmt.Fprintf(r.options.Stderr, "raypher:   mode %s: nothing is refused\n", b.Mode)
	}
	for _, note := range b.Notes {
		fmt.Fprintf(r.options.Stderr, "raypher:   note: %s\n", note)
	}
}
