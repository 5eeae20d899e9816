package journaltest

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// Subject is whom Claims are about.
const Subject = "spiffe://example.org/ns/dev/agent/coder"

// Claims returns sound claims of a visa for an agent, granted by l at its time for five minutes to anyone. Nobody keeps the
// bearer's private key.
func (l *Log) Claims(agent string) *visa.Claims {
	l.t.Helper()
	cnf, err := visa.ConfirmationKey(NewKey(l.t).Public())
	if err != nil {
		l.t.Fatal(err)
	}
	hash := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	id := make([]byte, visa.CTISize)
	rand.Read(id)
	now := l.Now.Unix()
	return &visa.Claims{
		Issuer: "spiffe://example.org", Subject: Subject, IssuedAt: now, NotBefore: now, ExpiresAt: now + 300, ID: id,
		Confirmation: visa.Confirmation{Key: cnf}, PolicyHash: hash(1), PermitHash: hash(2), ConfigurationHash: bytes.Clone(l.Config[:]),
		Ceiling: visa.Ceiling{Version: 3, Hash: hash(4)}, Tier: l.Tier, Epoch: bytes.Clone(l.Epoch[:]), Namespace: "dev",
		Asserted: visa.Asserted{AgentID: agent, UID: 1000, User: "u", PID: 42, BinarySHA256: hash(5), Backend: "broker", Host: "h"},
	}
}

// Visa encodes the entry of a visa.
func (l *Log) Visa(c *visa.Claims) []byte {
	l.t.Helper()
	payload, err := c.Encode()
	if err != nil {
		l.t.Fatal(err)
	}
	return l.Entry(journal.TypeVisa, payload)
}

// Granted puts together the visa whose entry has that index of the whole journal.
func (b *Batch) Granted(t testing.TB, index uint64) []byte {
	t.Helper()
	data, err := visa.Encode(b.Entries[index-b.First], b.Receipt(index))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
