package predecessor

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/nitro"
	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/tpm"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
)

// claimOf is what an honest store says of a log.
func claimOf(l *journaltest.Log) Claim {
	return Claim{Epoch: l.Epoch, Size: l.Tree.Size(), SignedHead: l.Last.SignedHead, KeyEvidence: l.KeyEvidence().Encode()}
}

func newLog(t *testing.T) *journaltest.Log {
	t.Helper()
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	l.Append(l.Visa(l.Claims("a1")))
	return l
}

func TestVerify(t *testing.T) {
	l, other := newLog(t), newLog(t)
	same := journaltest.New(t, l.Signer, nil) // another epoch of the same key
	same.Append(same.Visa(same.Claims("a1")))
	lie := journaltest.New(t, l.Signer, nil) // a key in a file whose heads say tpm
	lie.Tier = journal.TierTPM
	lie.Append(lie.Visa(lie.Claims("a1")))
	elsewhere := journaltest.New(t, l.Signer, nil)
	statement := elsewhere.KeyEvidence().Encode()
	elsewhere.Config = journal.Hash{9}
	elsewhere.Append(elsewhere.Visa(elsewhere.Claims("a1")))
	relabelled := *l.KeyEvidence()
	relabelled.Tier = journal.TierTPM
	labelledNitro := *l.KeyEvidence()
	labelledNitro.Tier = journal.TierNitro
	own, stranger := l.Key, other.Key
	for _, c := range []struct {
		name    string
		claim   func() Claim
		own     *journal.Key
		allowed [][32]byte
		want    error // nil: it may be followed; errAny: any
	}{
		{"its own", func() Claim { return claimOf(l) }, own, nil, nil},
		{"a listed one", func() Claim { return claimOf(l) }, stranger, [][32]byte{own.ID()}, nil},
		{"one that is not listed", func() Claim { return claimOf(l) }, stranger, [][32]byte{{1}}, ErrNotAllowed},
		{"evidence of another key", func() Claim { c := claimOf(l); c.KeyEvidence = other.KeyEvidence().Encode(); return c }, own, nil, ErrNotAllowed},
		{"evidence of another listed key", func() Claim { c := claimOf(l); c.KeyEvidence = other.KeyEvidence().Encode(); return c }, own, [][32]byte{stranger.ID()}, evidence.ErrHead},
		{"evidence of another epoch of the key", func() Claim { c := claimOf(l); c.KeyEvidence = same.KeyEvidence().Encode(); return c }, own, nil, evidence.ErrHead},
		{"evidence of another configuration", func() Claim { c := claimOf(elsewhere); c.KeyEvidence = statement; return c }, own, nil, evidence.ErrHead},
		{"a key in a file that claims tpm", func() Claim { return claimOf(lie) }, own, nil, evidence.ErrHead},
		{"a statement that is labelled tpm", func() Claim { c := claimOf(lie); c.KeyEvidence = relabelled.Encode(); return c }, own, nil, attest.CheckFormat},
		{"a statement that is labelled nitro", func() Claim { c := claimOf(l); c.KeyEvidence = labelledNitro.Encode(); return c }, own, nil, nitro.CheckEncoding},
		{"another size", func() Claim { c := claimOf(l); c.Size++; return c }, own, nil, errAny},
		{"another epoch", func() Claim { c := claimOf(l); c.Epoch = same.Epoch; return c }, own, nil, errAny},
		{"no evidence", func() Claim { c := claimOf(l); c.KeyEvidence = nil; return c }, own, nil, errAny},
		{"no head", func() Claim { c := claimOf(l); c.SignedHead = nil; return c }, own, nil, evidence.ErrKey},
		{"an altered head", func() Claim { c := claimOf(l); c.SignedHead = bent(c.SignedHead); return c }, own, nil, evidence.ErrKey},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, c.claim(), Own{Key: c.own, Allowed: c.allowed}, c.want) })
	}
}

var errAny = errors.New("any error")

func bent(data []byte) []byte {
	data = bytes.Clone(data)
	data[len(data)-1] ^= 1
	return data
}

func check(t *testing.T, c Claim, own Own, want error) {
	t.Helper()
	p, err := Verify(c, own)
	switch {
	case want == nil && (err != nil || p.Epoch != c.Epoch || p.Size != c.Size || !bytes.Equal(p.SignedHead, c.SignedHead)):
		t.Errorf("%+v, %v", p, err)
	case want == errAny && err == nil, want != nil && want != errAny && !errors.Is(err, want):
		t.Errorf("error %v, want %v", err, want)
	case want != nil && p != nil:
		t.Errorf("%+v beside an error", p)
	}
}

// A predecessor whose key lies in a TPM, years after its evidence was made: judged by the certification and the quote in it.
func TestVerifyTPM(t *testing.T) {
	ca := tpmtest.NewCA(t)
	device, err := tpm.OpenDevice(tpmtest.Start(t, ca.Make(t)).Socket)
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := tpm.Open(t.Context(), tpm.Options{TPM: device, State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	key, err := journal.NewKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	epoch, configuration := journal.EpochID{1}, journal.Hash{2}
	made := func(b signer.Binding) []byte {
		ev, err := k.Evidence(t.Context(), nil, b)
		if err != nil {
			t.Fatal(err)
		}
		return ev.Encode()
	}
	head := func(tier string) []byte {
		signed, err := journal.SignHead(journal.Head{Epoch: epoch, Size: 5, Root: journal.Hash{3}, Time: time.Now().AddDate(5, 0, 0).UnixNano(), Tier: tier, ConfigurationHash: configuration},
			signer.ForJournal(t.Context(), k))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	good := Claim{Epoch: epoch, Size: 5, SignedHead: head(journal.TierTPM), KeyEvidence: made(signer.Binding{Epoch: epoch, Configuration: configuration})}
	stranger := newLog(t).Key
	decoded, err := journal.DecodeKeyEvidence(good.KeyEvidence)
	if err != nil {
		t.Fatal(err)
	}
	forged := journal.KeyEvidence{Tier: journal.TierTPM, Document: bytes.Replace(decoded.Document, x(key), x(stranger), 1)}
	for _, c := range []struct {
		name  string
		claim Claim
		own   *journal.Key
		want  error
	}{
		{"its own", good, key, nil},
		{"not listed", good, stranger, ErrNotAllowed},
		{"evidence for another epoch", Claim{good.Epoch, good.Size, good.SignedHead, made(signer.Binding{Configuration: configuration})}, key, evidence.ErrHead},
		{"evidence for another configuration", Claim{good.Epoch, good.Size, good.SignedHead, made(signer.Binding{Epoch: epoch})}, key, evidence.ErrHead},
		{"a head of a lower tier", Claim{good.Epoch, good.Size, head(journal.TierSoftware), good.KeyEvidence}, key, evidence.ErrHead},
		{"another key put into the evidence", Claim{good.Epoch, good.Size, good.SignedHead, forged.Encode()}, key, evidence.ErrKey},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, c.claim, Own{Key: c.own}, c.want) })
	}
}

// x is the first coordinate of a key: 32 bytes before the 32 of the second, at the end of its PKIX DER.
func x(k *journal.Key) []byte { return k.PKIX()[len(k.PKIX())-64 : len(k.PKIX())-32] }

func FuzzVerify(f *testing.F) {
	key := journaltest.NewKey(f)
	l := journaltest.New(f, key, nil)
	l.Append(l.Visa(l.Claims("a1")))
	good := claimOf(l)
	f.Add(good.SignedHead, good.KeyEvidence)
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, head, ev []byte) {
		p, err := Verify(Claim{Epoch: good.Epoch, Size: good.Size, SignedHead: head, KeyEvidence: ev}, Own{Key: l.Key})
		if err == nil && (!bytes.Equal(p.SignedHead, head) || !bytes.Equal(ev, good.KeyEvidence)) {
			t.Error("forged evidence of a predecessor is taken")
		}
	})
}
