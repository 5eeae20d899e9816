package journal_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/veraison/go-cose"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
)

var sample = journal.Verdict{
	Time: 1_800_000_000_123_456_789, AgentID: "a1", Subject: "spiffe://example.org/ns/dev/agent/coder", PID: 4711, Comm: "cat",
	Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/home/u/.ssh/id_rsa", Errno: 13, Count: 1, VisaID: bytes.Repeat([]byte{7}, 16),
}

func TestReceiptProvesItsEntryAndNoOther(t *testing.T) {
	log := journaltest.New(t, journaltest.NewKey(t), nil)
	for _, n := range []int{1, 2, 5, 8, 1, 31} {
		var entries [][]byte
		for range n {
			v := sample
			v.PID += uint32(log.Tree.Size()) + uint32(len(entries)) // equal entries prove each other's places too
			entries = append(entries, log.Verdict(v))
		}
		b := log.Append(entries...)
		for i, entry := range b.Entries {
			r, err := journal.DecodeReceipt(b.Receipt(b.First + uint64(i)).Encode())
			if err != nil {
				t.Fatal(err)
			}
			head, err := r.Verify(entry, log.Key)
			if err != nil || head.Size != log.Tree.Size() {
				t.Fatalf("entry %d: %v", r.Index, err)
			}
			for name, spoil := range map[string]func(*journal.Receipt){
				"another index":     func(r *journal.Receipt) { r.Index ^= 1 },
				"index past end":    func(r *journal.Receipt) { r.Index += 1 << 40 },
				"another epoch":     func(r *journal.Receipt) { r.Epoch[0] ^= 1 },
				"longer path":       func(r *journal.Receipt) { r.Path = append(r.Path, journal.Hash{}) },
				"path without end":  func(r *journal.Receipt) { r.Path = r.Path[:max(0, len(r.Path)-1)] },
				"altered signature": func(r *journal.Receipt) { r.SignedHead[len(r.SignedHead)-1] ^= 1 },
			} {
				bad, _ := journal.DecodeReceipt(r.Encode())
				spoil(bad)
				if name == "path without end" && len(r.Path) == 0 {
					continue
				}
				if _, err := bad.Verify(entry, log.Key); err == nil {
					t.Errorf("entry %d of %d: %s passes", r.Index, head.Size, name)
				}
			}
			if _, err := r.Verify(append([]byte{0}, entry...), log.Key); !errors.Is(err, journal.ErrInclusion) {
				t.Errorf("another entry: %v", err)
			}
		}
	}
}

// TestSignedHeadIsCOSE reads and verifies a head with an independent implementation of RFC 9052.
func TestSignedHeadIsCOSE(t *testing.T) {
	log := journaltest.New(t, journaltest.NewKey(t), nil)
	signed := log.Append().SignedHead
	var m cose.Sign1Message
	if err := m.UnmarshalCBOR(signed); err != nil {
		t.Fatal(err)
	}
	verifier, err := cose.NewVerifier(cose.AlgorithmES256, log.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(nil, verifier); err != nil {
		t.Fatal(err)
	}
	id := log.Key.ID()
	if kid := m.Headers.Protected[cose.HeaderLabelKeyID]; !bytes.Equal(kid.([]byte), id[:]) {
		t.Errorf("kid %x, want %x", kid, id)
	}
	if again, err := m.MarshalCBOR(); err != nil || !bytes.Equal(again, signed) {
		t.Errorf("another encoding: %x: %v", again, err)
	}
}

func TestEveryAlteredBitOfASignedHeadIsRefused(t *testing.T) {
	log := journaltest.New(t, journaltest.NewKey(t), nil)
	signed := log.Append().SignedHead
	for bit := range len(signed) * 8 {
		bad := bytes.Clone(signed)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := journal.VerifyHead(bad, log.Key); err == nil {
			t.Fatalf("bit %d of byte %d flipped: accepted", bit%8, bit/8)
		}
	}
	for n := range signed {
		if _, err := journal.VerifyHead(signed[:n], log.Key); err == nil {
			t.Fatalf("cut to %d bytes: accepted", n)
		}
	}
	if _, err := journal.VerifyHead(append(bytes.Clone(signed), 0), log.Key); err == nil {
		t.Error("with a byte behind it: accepted")
	}
	other := journaltest.New(t, journaltest.NewKey(t), nil)
	if _, err := journal.VerifyHead(signed, other.Key); !errors.Is(err, journal.ErrUnknownKey) {
		t.Errorf("another key: %v", err)
	}
}

// TestDecodersRefuseOtherEncodings: one value, one encoding.
func TestDecodersRefuseOtherEncodings(t *testing.T) {
	for name, encoded := range map[string]string{
		"long form of the type":    "a3 01 1803 02 01 03 40",
		"keys out of order":        "a3 02 01 01 03 03 40",
		"duplicate key":            "a3 01 03 01 03 03 40",
		"unknown key":              "a4 01 03 02 01 03 40 04 00",
		"missing payload":          "a2 01 03 02 01",
		"payload null":             "a3 01 03 02 01 03 f6",
		"indefinite map":           "bf 01 03 02 01 03 40 ff",
		"indefinite bytes":         "a3 01 03 02 01 03 5f ff",
		"tagged":                   "c1 a3 01 03 02 01 03 40",
		"time as a float":          "a3 01 03 02 f93c00 03 40",
		"type 0":                   "a3 01 00 02 01 03 40",
		"negative type":            "a3 01 20 02 01 03 40",
		"text as payload":          "a3 01 03 02 01 03 60",
		"something behind":         "a3 01 03 02 01 03 40 00",
		"nothing":                  "",
		"length beyond the end":    "a3 01 03 02 01 03 5b7fffffffffffffff",
		"names instead of numbers": "a3 61 31 03 61 32 01 61 33 40",
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(encoded, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if e, err := journal.Decode(raw); err == nil {
			t.Errorf("%s: read as %+v", name, e)
		}
	}
	if _, err := journal.Decode(make([]byte, journal.MaxEntrySize+1)); err == nil {
		t.Error("an entry above the limit is read")
	}
	if _, err := (journal.Entry{Type: 1, Payload: make([]byte, journal.MaxEntrySize)}).Encode(); err == nil {
		t.Error("an entry above the limit is written")
	}
}

func TestUnknownTypesAreKept(t *testing.T) {
	raw, err := journal.Entry{Type: 1000, Time: -5, Payload: []byte("later")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	e, err := journal.Decode(raw)
	if err != nil || e.Type != 1000 || e.Time != -5 || string(e.Payload) != "later" || e.Type.String() != "type 1000" {
		t.Fatalf("%+v: %v", e, err)
	}
}

func TestVerdictsAreCutToTheirBounds(t *testing.T) {
	v := sample
	v.Target = "/" + strings.Repeat("é", journal.MaxTarget) // the cut goes through a character
	v.Comm = "a\xff\x00b"
	v.Count = 0
	raw, err := journal.EncodeVerdict(v)
	if err != nil {
		t.Fatal(err)
	}
	got, err := journal.DecodeVerdict(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Target) > journal.MaxTarget || len(got.Target) < journal.MaxTarget-3 || !utf8.ValidString(got.Target) || got.Comm != "a�\x00b" || got.Count != 1 {
		t.Fatalf("target of %d bytes, comm %q, count %d", len(got.Target), got.Comm, got.Count)
	}
	for name, spoil := range map[string]func(*journal.Verdict){
		"no agent":         func(v *journal.Verdict) { v.AgentID = "" },
		"no operation":     func(v *journal.Verdict) { v.Operation = "" },
		"unknown decision": func(v *journal.Verdict) { v.Decision = "blocked" },
		"long visa":        func(v *journal.Verdict) { v.VisaID = make([]byte, 65) },
	} {
		v := sample
		spoil(&v)
		if _, err := journal.EncodeVerdict(v); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestEpochEntryRoundTrip(t *testing.T) {
	first := journaltest.New(t, journaltest.NewKey(t), nil)
	first.Append()
	second := journaltest.New(t, journaltest.NewKey(t), first)
	e, err := journal.Decode(second.Start)
	if err != nil {
		t.Fatal(err)
	}
	s, err := journal.DecodeEpochStart(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Encode()
	if err != nil || !bytes.Equal(again, e.Payload) {
		t.Fatalf("another encoding: %v", err)
	}
	if s.Predecessor == nil || s.Predecessor.Epoch != first.Epoch || s.Predecessor.Size != 1 || s.Epoch != second.Epoch {
		t.Fatalf("%+v", s)
	}
	if _, key, err := journal.VerifyStatement(s.Predecessor.KeyEvidence.Document); err != nil || key.ID() != first.Key.ID() {
		t.Fatalf("key evidence of the predecessor: %v", err)
	}
}

func TestAStatementIsAboutItsOwnKey(t *testing.T) {
	log := journaltest.New(t, journaltest.NewKey(t), nil)
	document := log.KeyEvidence().Document
	for bit := range len(document) * 8 {
		bad := bytes.Clone(document)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, _, err := journal.VerifyStatement(bad); err == nil {
			t.Fatalf("bit %d of byte %d flipped: accepted", bit%8, bit/8)
		}
	}
	if _, _, err := journal.VerifyStatement(log.Append().SignedHead); err == nil {
		t.Error("a tree head passes for a statement")
	}
	if _, err := journal.VerifyHead(document, log.Key); err == nil {
		t.Error("a statement passes for a tree head")
	}
}

// FuzzDecoders: no input may crash a decoder, and what one accepts has exactly one encoding.
func FuzzDecoders(f *testing.F) {
	log := journaltest.New(f, journaltest.NewKey(f), nil)
	b := log.Append(log.Verdict(sample))
	start, _ := journal.Decode(log.Start)
	verdict, _ := journal.EncodeVerdict(sample)
	for _, seed := range [][]byte{log.Start, start.Payload, verdict, b.SignedHead, b.Receipt(1).Encode(), log.KeyEvidence().Encode(),
		log.KeyEvidence().Document, journal.CeilingInstalled{Version: 3}.Encode(), furtherKey(log), tlsUse()} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := journal.Decode(data); err == nil {
			same(t, data)(e.Encode())
		}
		if v, err := journal.DecodeVerdict(data); err == nil {
			same(t, data)(journal.EncodeVerdict(v))
		}
		if s, err := journal.DecodeEpochStart(data); err == nil {
			same(t, data)(s.Encode())
		}
		if r, err := journal.DecodeReceipt(data); err == nil {
			same(t, data)(r.Encode(), nil)
			if _, err := r.Verify([]byte("entry"), log.Key); err == nil {
				t.Error("an invented receipt verifies")
			}
		}
		if k, err := journal.DecodeKeyEvidence(data); err == nil {
			same(t, data)(k.Encode(), nil)
		}
		if c, err := journal.DecodeCeilingInstalled(data); err == nil {
			same(t, data)(c.Encode(), nil)
		}
		if k, err := journal.DecodeFurtherKey(data); err == nil {
			same(t, data)(k.Encode())
		}
		if u, err := journal.DecodeTLSUse(data); err == nil {
			same(t, data)(u.Encode())
		}
		journal.VerifyStatement(data)
		if _, err := journal.VerifyNamespaceHead(data, log.Key); err == nil {
			t.Error("a head for a namespace verifies that nobody signed")
		}
		if _, err := journal.VerifyHead(data, log.Key); err == nil && !bytes.Equal(data, b.SignedHead) {
			t.Error("another head verifies")
		}
	})
}

func same(t *testing.T, want []byte) func([]byte, error) {
	return func(got []byte, err error) {
		t.Helper()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("accepted %x, encodes as %x: %v", want, got, err)
		}
	}
}

func furtherKey(log *journaltest.Log) []byte {
	f := journal.FurtherKey{Purpose: journal.PurposeNamespace, Name: "dev", PublicKey: log.Key.PKIX(), KeyEvidence: *log.KeyEvidence()}
	raw, _ := f.Encode()
	return raw
}

func tlsUse() []byte {
	u := journal.TLSUse{Use: journal.UseCertificate, Subject: "spiffe://d/ns/n/agent/a", AgentID: "a", VisaID: make([]byte, 16), Detail: []byte{1}}
	raw, _ := u.Encode()
	return raw
}
