package visa

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"
)

// View is a visa for people and for other programs: the claims with their names, bytes in hexadecimal, times in UTC.
type View struct {
	Issuer            string    `json:"iss"`
	Subject           string    `json:"sub"`
	Audience          string    `json:"aud,omitempty"`
	Expires           time.Time `json:"exp"`
	NotBefore         time.Time `json:"nbf"`
	IssuedAt          time.Time `json:"iat"`
	ID                string    `json:"cti"`
	ConfirmationKey   string    `json:"cnf"` // COSE_Key
	Nonce             string    `json:"eat_nonce,omitempty"`
	PolicyHash        string    `json:"policy_hash"`
	PermitHash        string    `json:"permit_hash"`
	ConfigurationHash string    `json:"configuration_hash"`
	CeilingVersion    uint64    `json:"ceiling_version"`
	CeilingHash       string    `json:"ceiling_hash"`
	Tier              string    `json:"tier"`
	Epoch             string    `json:"epoch"`
	Namespace         string    `json:"namespace"`
	HandleHash        string    `json:"handle_hash,omitempty"`
	BudgetMicroUSD    uint64    `json:"budget_micro_usd,omitempty"`
	// Asserted is what the parent said; the enclave cannot see it.
	Asserted AssertedView `json:"asserted_by_parent"`
}

// AssertedView is the part of a View that only the parent vouches for.
type AssertedView struct {
	AgentID      string `json:"agent_id"`
	UID          uint32 `json:"uid"`
	User         string `json:"user"`
	PID          int32  `json:"pid"`
	BinarySHA256 string `json:"binary_sha256,omitempty"`
	Backend      string `json:"backend"`
	Host         string `json:"host"`
	Cgroup       string `json:"cgroup,omitempty"`
}

// View returns the claims for display.
func (c *Claims) View() View {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
	a := c.Asserted
	return View{
		Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience, Expires: at(c.ExpiresAt), NotBefore: at(c.NotBefore), IssuedAt: at(c.IssuedAt),
		ID: hex.EncodeToString(c.ID), ConfirmationKey: hex.EncodeToString(c.Confirmation.Key), Nonce: hex.EncodeToString(c.Nonce),
		PolicyHash: hex.EncodeToString(c.PolicyHash), PermitHash: hex.EncodeToString(c.PermitHash),
		ConfigurationHash: hex.EncodeToString(c.ConfigurationHash), CeilingVersion: c.Ceiling.Version, CeilingHash: hex.EncodeToString(c.Ceiling.Hash),
		Tier: c.Tier, Epoch: hex.EncodeToString(c.Epoch), Namespace: c.Namespace, HandleHash: hex.EncodeToString(c.Handle), BudgetMicroUSD: c.Budget,
		Asserted: AssertedView{AgentID: a.AgentID, UID: a.UID, User: a.User, PID: a.PID, BinarySHA256: hex.EncodeToString(a.BinarySHA256), Backend: a.Backend, Host: a.Host, Cgroup: a.Cgroup},
	}
}

// Print writes the view for a person. What comes from outside is escaped, so that it cannot command a terminal.
func (v View) Print(w io.Writer) error {
	lines := [][2]string{
		{"subject", v.Subject}, {"issuer", v.Issuer}, {"audience", orNone(v.Audience, "anyone")}, {"tier", v.Tier},
		{"issued", v.IssuedAt.Format(time.RFC3339)}, {"not before", v.NotBefore.Format(time.RFC3339)}, {"expires", v.Expires.Format(time.RFC3339)},
		{"id (cti)", v.ID}, {"nonce", orNone(v.Nonce, "none")}, {"namespace", orNone(v.Namespace, "none")},
		{"policy", "sha256:" + v.PolicyHash}, {"permit", "sha256:" + v.PermitHash},
		{"ceiling", fmt.Sprintf("version %d, sha256:%s", v.CeilingVersion, v.CeilingHash)}, {"configuration", "sha256:" + v.ConfigurationHash}, {"epoch", v.Epoch},
		{"asserted by the parent:", ""},
		{"  agent", v.Asserted.AgentID}, {"  user", fmt.Sprintf("%s (%d)", v.Asserted.User, v.Asserted.UID)}, {"  pid", strconv.Itoa(int(v.Asserted.PID))},
		{"  program", orNone(v.Asserted.BinarySHA256, "not hashed")}, {"  backend", v.Asserted.Backend}, {"  host", v.Asserted.Host},
	}
	if v.Asserted.Cgroup != "" {
		lines = append(lines, [2]string{"  cgroup", v.Asserted.Cgroup})
	}
	for _, line := range lines {
		if line[1] == "" {
			line[0] += "\n"
		} else {
			line[0] = fmt.Sprintf("%-15s %s\n", line[0], printable(line[1]))
		}
		if _, err := io.WriteString(w, line[0]); err != nil {
			return err
		}
	}
	return nil
}

func orNone(text, none string) string {
	if text == "" {
		return none
	}
	return text
}

// printable escapes control characters and what is not printable.
func printable(text string) string {
	quoted := strconv.QuoteToGraphic(text)
	return quoted[1 : len(quoted)-1]
}
