package nitro_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
)

// fixedWorld is the same in each worker of a fuzz run, so that the seeds of one are good documents for all.
func fixedWorld(f *testing.F) *world {
	pki := nitrotest.Fixed(f, storedAt)
	return &world{PKI: pki, leaf: pki.Leaf(f)}
}

func TestFixedWorldIsFixed(t *testing.T) {
	one, two := nitrotest.Fixed(t, storedAt), nitrotest.Fixed(t, storedAt)
	if !one.Root().Equal(two.Root()) || !one.Leaf(t).Equal(two.Leaf(t).Certificate) {
		t.Error("two worlds")
	}
}

// FuzzVerify: no document but the ones that were signed is accepted, at any time, and nothing panics. Equal payloads are one
// document: its ECDSA signature has a second form.
func FuzzVerify(f *testing.F) {
	w := fixedWorld(f)
	own := w.verifier(f)
	good := w.Draft(w.leaf).Seal(f)
	open := w.Draft(w.leaf)
	open.OpenMap = true
	signed := [][]byte{good, open.Seal(f)}
	names, _ := filepath.Glob(filepath.Join(vectors, "*.cbor")) // none: the AWS root is fuzzed without real documents
	for _, name := range names {
		document, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		signed = append(signed, document)
	}
	payloads := map[string]bool{}
	for _, document := range signed {
		f.Add(document)
		payload, err := nitro.Payload(document)
		if err != nil {
			f.Fatal(err)
		}
		payloads[string(payload)] = true
	}
	aws := newVerifier(f, nitro.Config{})
	f.Fuzz(func(t *testing.T, document []byte) {
		payload, _ := nitro.Payload(document)
		at := w.At
		if d, err := nitro.ReadPayload(payload); err == nil {
			at = d.Timestamp // its own time, which is the best for it
		}
		for _, v := range []*nitro.Verifier{own, aws} {
			_, err := v.Verify(document, nitro.Expected{At: at, AllowDebug: true})
			var refusal *attest.Refusal
			if err == nil && !payloads[string(payload)] {
				t.Fatalf("accepted %x", document)
			}
			if err != nil && !errors.As(err, &refusal) {
				t.Errorf("not a refusal: %v", err)
			}
		}
	})
}

// FuzzSignedPayload signs whatever the fuzzer writes: what lies behind the signature has to hold without its help. The
// second opinion may refuse more, but what is accepted obeys the bounds.
func FuzzSignedPayload(f *testing.F) {
	w := fixedWorld(f)
	v := w.verifier(f)
	for _, open := range []bool{false, true} {
		draft := w.Draft(w.leaf)
		draft.OpenMap = open
		f.Add(draft.EncodePayload(f))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > nitro.MaxDocumentSize/2 {
			t.Skip("larger than a document")
		}
		draft := w.Draft(w.leaf)
		draft.Payload = payload
		if payload == nil {
			draft.Payload = []byte{}
		}
		d, err := v.Verify(draft.Seal(t), nitro.Expected{At: w.At})
		if err != nil {
			return
		}
		zero := nitro.PCR{}
		age := w.At.Sub(d.Timestamp)
		if d.Debug || d.PCRs[4] != nitro.PCR(nitrotest.PCR(d.InstanceID())) || d.PCRs[0] == zero && d.PCRs[1] == zero && d.PCRs[2] == zero ||
			age > nitro.DefaultMaxAge || age < -nitro.ClockSkew || len(d.Nonce) > nitro.MaxFieldSize || len(d.PCRs) > 32 {
			t.Errorf("accepted %+v", d)
		}
	})
}

// FuzzPayload compares the reader with a general decoder: what ours takes, that one takes with the strictest options, and
// finds the same.
func FuzzPayload(f *testing.F) {
	w := fixedWorld(f)
	for _, open := range []bool{false, true} {
		draft := w.Draft(w.leaf)
		draft.OpenMap = open
		f.Add(draft.EncodePayload(f))
	}
	options := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		TagsMd: cbor.TagsForbidden, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField}
	strict, err := options.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := nitro.ReadPayload(payload)
		if err != nil {
			return
		}
		var want struct {
			ModuleID    string         `cbor:"module_id"`
			Digest      string         `cbor:"digest"`
			Timestamp   uint64         `cbor:"timestamp"`
			PCRs        map[int][]byte `cbor:"pcrs"`
			Certificate []byte         `cbor:"certificate"`
			CABundle    [][]byte       `cbor:"cabundle"`
			PublicKey   []byte         `cbor:"public_key"`
			UserData    []byte         `cbor:"user_data"`
			Nonce       []byte         `cbor:"nonce"`
		}
		if err := strict.Unmarshal(payload, &want); err != nil {
			t.Fatalf("only our reader takes %x: %v", payload, err)
		}
		same := got.ModuleID == want.ModuleID && uint64(got.Timestamp.UnixMilli()) == want.Timestamp && len(got.PCRs) == len(want.PCRs) &&
			bytes.Equal(got.PublicKey, want.PublicKey) && bytes.Equal(got.UserData, want.UserData) && bytes.Equal(got.Nonce, want.Nonce)
		for index, value := range got.PCRs {
			same = same && bytes.Equal(value[:], want.PCRs[index])
		}
		if !same {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// FuzzParseLists: files of revocation lists come from the network.
func FuzzParseLists(f *testing.F) {
	w := fixedWorld(f)
	f.Add(w.RevocationList(f, 0, distributionPoint(fullName(nitrotest.CRLPlace, "")), w.leaf.Certificate).Raw)
	f.Add(w.RootPEM())
	f.Fuzz(func(_ *testing.T, text []byte) {
		lists, err := nitro.ParseLists(text)
		if err == nil {
			_, _ = nitro.NewVerifier(nitro.Config{Lists: lists})
		}
	})
}
