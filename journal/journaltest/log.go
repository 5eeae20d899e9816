// Package journaltest writes real journals for tests: the enclave's part of package journal with a key in memory. Only
// tests import it.
package journaltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
)

// Key is a signer in memory.
type Key struct{ private *ecdsa.PrivateKey }

// NewKey draws a key.
func NewKey(t testing.TB) *Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{private}
}

// Public implements journal.Signer.
func (k *Key) Public() *ecdsa.PublicKey { return &k.private.PublicKey }

// Sign implements journal.Signer.
func (k *Key) Sign(digest []byte) ([]byte, error) {
	der, err := ecdsa.SignASN1(rand.Reader, k.private, digest)
	if err != nil {
		return nil, err
	}
	return journal.RawSignature(der)
}

// Log is one epoch of a journal.
type Log struct {
	Epoch  journal.EpochID
	Config journal.Hash
	Tier   string
	Signer *Key
	Key    *journal.Key
	Now    time.Time // of entries and heads
	Tree   journal.Tree

	t     testing.TB
	Start []byte // entry 0, appended with the first batch
	Last  *Batch
}

// Batch is one group commit.
type Batch struct {
	First      uint64
	Entries    [][]byte
	SignedHead []byte
	tree       *journal.Batch
	epoch      journal.EpochID
}

// New begins a journal of tier software, after another one where that is not nil.
func New(t testing.TB, signer *Key, after *Log) *Log {
	t.Helper()
	if after == nil {
		return NewAfter(t, signer, nil)
	}
	return NewAfter(t, signer, &journal.Predecessor{Epoch: after.Epoch, Size: after.Tree.Size(), SignedHead: after.Last.SignedHead, KeyEvidence: *after.KeyEvidence()})
}

// NewAfter begins a journal whose entry 0 names that predecessor, or none.
func NewAfter(t testing.TB, signer *Key, predecessor *journal.Predecessor) *Log {
	t.Helper()
	l := &Log{Tier: journal.TierSoftware, Signer: signer, Now: time.Unix(1_800_000_000, 0), t: t, Config: journal.Hash{1, 2, 3}}
	rand.Read(l.Epoch[:])
	var err error
	if l.Key, err = journal.NewKey(signer.Public()); err != nil {
		t.Fatal(err)
	}
	start := journal.EpochStart{Epoch: l.Epoch, PublicKey: l.Key.PKIX(), Tier: l.Tier, ConfigurationHash: l.Config, KeyEvidence: *l.KeyEvidence(), Predecessor: predecessor}
	payload, err := start.Encode()
	if err != nil {
		t.Fatal(err)
	}
	l.Start = l.Entry(journal.TypeEpoch, payload)
	return l
}

// KeyEvidence makes evidence for the key.
func (l *Log) KeyEvidence() *journal.KeyEvidence {
	l.t.Helper()
	ev, err := journal.SignStatement(l.Signer, l.Epoch, l.Config, nil, l.Now)
	if err != nil {
		l.t.Fatal(err)
	}
	return ev
}

// Entry encodes an entry at the log's time.
func (l *Log) Entry(typ journal.Type, payload []byte) []byte {
	l.t.Helper()
	raw, err := journal.NewEntry(typ, l.Now, payload)
	if err != nil {
		l.t.Fatal(err)
	}
	return raw
}

// Verdict encodes a verdict entry.
func (l *Log) Verdict(v journal.Verdict) []byte {
	l.t.Helper()
	payload, err := journal.EncodeVerdict(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.Entry(journal.TypeVerdict, payload)
}

// Append commits entries under one signed head; the first batch begins with the epoch entry.
func (l *Log) Append(entries ...[]byte) *Batch {
	l.t.Helper()
	if l.Tree.Size() == 0 {
		entries = append([][]byte{l.Start}, entries...)
	}
	var leaves []journal.Hash
	for _, e := range entries {
		leaves = append(leaves, journal.LeafHash(e))
	}
	tree := l.Tree.Append(leaves)
	signed, err := journal.SignHead(journal.Head{
		Epoch: l.Epoch, Size: tree.Size(), Root: tree.Root(), Time: l.Now.UnixNano(), Tier: l.Tier, ConfigurationHash: l.Config,
	}, l.Signer)
	if err != nil {
		l.t.Fatal(err)
	}
	l.Last = &Batch{First: tree.First(), Entries: entries, SignedHead: signed, tree: tree, epoch: l.Epoch}
	return l.Last
}

// Receipt proves the entry with that index of the whole journal.
func (b *Batch) Receipt(index uint64) *journal.Receipt {
	return &journal.Receipt{Epoch: b.epoch, Index: index, Path: b.tree.Proof(index), SignedHead: b.SignedHead}
}
