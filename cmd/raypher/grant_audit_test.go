package main

import (
	"context"
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// leaseJournal is a real journal of a host, as a ledger writes it.
type leaseJournal struct {
	t     *testing.T
	log   *journaltest.Log
	store *audit.Store
}

func (j leaseJournal) Attached() bool { return true }

func (j leaseJournal) Append(_ context.Context, entries ...[]byte) error {
	b := j.log.Append(entries...)
	return j.store.Append(&enclavev1.Batch{Epoch: j.log.Epoch[:], FirstIndex: b.First, Entries: b.Entries, SignedHead: b.SignedHead})
}

// An auditor adds up what was handed out, and sees when a lease stands twice.
func TestGrantAudit(t *testing.T) {
	state, clock, operator := t.TempDir(), new(leasetest.Clock), leasetest.NewOperator(t)
	store, err := audit.Open(filepath.Join(state, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	j := leaseJournal{t, journaltest.New(t, journaltest.NewKey(t), nil), store}
	if err := j.Append(t.Context()); err != nil { // entry 0
		t.Fatal(err)
	}
	audited := func() (string, error) {
		return call(t, grantCommand(), "audit", "--state-dir", state, "--operator-key", base64.StdEncoding.EncodeToString(operator.Public))
	}
	if text, err := audited(); err != nil || !strings.Contains(text, "no leases") {
		t.Fatalf("%s, %v", text, err)
	}
	anchor, err := lease.OpenSoftware(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ledger := operator.Ledger(t.TempDir(), anchor, j, clock.Now)
	for version := uint64(1); version <= 2; version++ {
		if _, err := ledger.Install(t.Context(), operator.Sign(t, leasetest.Grant(t, anchor, version, 1000, 10))); err != nil {
			t.Fatal(err)
		}
		if err := ledger.Spend(t.Context(), "any", lease.Visas, 25); err != nil {
			t.Fatal(err)
		}
	}
	text, err := audited()
	if err != nil || strings.Count(text, "30 visas handed out in leases, 3 taken, 970 visas left") != 2 || !strings.Contains(text, "grant version 2, 1000 visas in 2026-11") {
		t.Errorf("%s, %v", text, err)
	}
	if text, err := call(t, grantCommand(), "audit", "--state-dir", state, "--operator-key", base64.StdEncoding.EncodeToString(leasetest.NewOperator(t).Public)); err == nil || !strings.Contains(err.Error(), "not signed by an operator key") {
		t.Errorf("another operator: %s, %v", text, err)
	}

	var last []byte
	for record, err := range store.Entries(audit.Filter{Types: []journal.Type{journal.TypeLease}}) {
		if err != nil {
			t.Fatal(err)
		}
		last = record.Raw
	}
	if err := j.Append(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if text, err := audited(); err == nil || !strings.Contains(err.Error(), "taken twice") {
		t.Errorf("a lease twice: %s, %v", text, err)
	}
}
