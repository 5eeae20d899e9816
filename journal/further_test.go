package journal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
)

// A head for a namespace is no head of the journal, nor the other way, although both are over the same tree.
func TestNamespaceHeads(t *testing.T) {
	log := journaltest.New(t, journaltest.NewKey(t), nil)
	b := log.Append(log.Verdict(sample))
	head, err := journal.VerifyHead(b.SignedHead, log.Key)
	if err != nil {
		t.Fatal(err)
	}
	key := journaltest.NewKey(t)
	own, err := journal.NewKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	signed, err := journal.SignNamespaceHead(journal.NamespaceHead{Head: *head, Namespace: "dev"}, key)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := journal.NamespaceHeadKey(signed); err != nil || id != own.ID() {
		t.Errorf("key %x, %v", id, err)
	}
	got, err := journal.VerifyNamespaceHead(signed, own)
	if err != nil || got.Namespace != "dev" || got.Head != *head {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := journal.VerifyNamespaceHead(signed, log.Key); !errors.Is(err, journal.ErrUnknownKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := journal.VerifyHead(signed, own); err == nil {
		t.Error("a head for a namespace passes for one of the journal")
	}
	if _, err := journal.VerifyNamespaceHead(b.SignedHead, log.Key); err == nil {
		t.Error("a head of the journal passes for one for a namespace")
	}
	for i := range signed {
		for bit := range 8 {
			bent := bytes.Clone(signed)
			bent[i] ^= 1 << bit
			if _, err := journal.VerifyNamespaceHead(bent, own); err == nil {
				t.Fatalf("bit %d of byte %d changed, and it verifies", bit, i)
			}
		}
	}
	for _, namespace := range []string{"", strings.Repeat("n", journal.MaxKeyNameSize+1)} {
		if _, err := journal.SignNamespaceHead(journal.NamespaceHead{Head: *head, Namespace: namespace}, key); err == nil {
			t.Errorf("a namespace of %d bytes is signed", len(namespace))
		}
	}
}

func TestEntriesOfFurtherKeys(t *testing.T) {
	log := journaltest.New(t, journaltest.NewKey(t), nil)
	good := journal.FurtherKey{Purpose: journal.PurposeTLS, Name: "spiffe://d/ns/n/agent/a", PublicKey: log.Key.PKIX(), KeyEvidence: *log.KeyEvidence()}
	raw, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := journal.DecodeFurtherKey(raw); err != nil || got.Name != good.Name || got.Purpose != good.Purpose {
		t.Errorf("%+v, %v", got, err)
	}
	for name, spoil := range map[string]func(*journal.FurtherKey){
		"purpose":  func(f *journal.FurtherKey) { f.Purpose = "head" },
		"no name":  func(f *journal.FurtherKey) { f.Name = "" },
		"no key":   func(f *journal.FurtherKey) { f.PublicKey = nil },
		"evidence": func(f *journal.FurtherKey) { f.KeyEvidence.Tier = "chip" },
	} {
		bad := good
		spoil(&bad)
		if _, err := bad.Encode(); err == nil {
			t.Errorf("key entry: %s is taken", name)
		}
	}
	use := journal.TLSUse{Use: journal.UseHandshake, Subject: good.Name, AgentID: "a", VisaID: make([]byte, 16), Detail: make([]byte, 48)}
	raw, err = use.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := journal.DecodeTLSUse(raw); err != nil || got.Subject != use.Subject || len(got.Detail) != 48 {
		t.Errorf("%+v, %v", got, err)
	}
	for name, spoil := range map[string]func(*journal.TLSUse){
		"use":      func(u *journal.TLSUse) { u.Use = "email" },
		"subject":  func(u *journal.TLSUse) { u.Subject = "a" },
		"agent":    func(u *journal.TLSUse) { u.AgentID = "" },
		"visa":     func(u *journal.TLSUse) { u.VisaID = nil },
		"no hash":  func(u *journal.TLSUse) { u.Detail = nil },
		"too long": func(u *journal.TLSUse) { u.Detail = make([]byte, 65) },
	} {
		bad := use
		spoil(&bad)
		if _, err := bad.Encode(); err == nil {
			t.Errorf("tls entry: %s is taken", name)
		}
	}
}
