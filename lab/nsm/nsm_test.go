package nsm_test

import (
	"bytes"
	"crypto/sha512"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/lab/nsm"
)

// What the module answers, request by request, as the real one does (nsm_io and hw/virtio/virtio-nsm.c of QEMU).
func TestAnswers(t *testing.T) {
	m, err := nsm.New(nsm.Options{Image: eif.Measurements{PCR0: eif.PCR{7}}})
	if err != nil {
		t.Fatal(err)
	}
	sixteen := func(more ...any) map[string]any {
		a := map[string]any{"index": 16}
		for i := 0; i < len(more); i += 2 {
			a[more[i].(string)] = more[i+1]
		}
		return a
	}
	request := func(name string, a map[string]any) any { return map[string]any{name: a} }
	once := sha512.Sum384(append(make([]byte, 48), "data"...))
	for _, c := range []struct {
		name    string
		request any
		want    string // the name in the answer, or the error's
	}{
		{"describe", "DescribeNSM", "DescribeNSM"},
		{"random", "GetRandom", "GetRandom"},
		{"extend", request("ExtendPCR", sixteen("data", []byte("data"))), "ExtendPCR"},
		{"extend by the most", request("ExtendPCR", map[string]any{"index": 17, "data": make([]byte, 512)}), "ExtendPCR"},
		{"extend by more", request("ExtendPCR", map[string]any{"index": 17, "data": make([]byte, 513)}), "InputTooLarge"},
		{"read", request("DescribePCR", sixteen()), "DescribePCR"},
		{"read the last", request("DescribePCR", map[string]any{"index": 31}), "DescribePCR"},
		{"read beyond", request("DescribePCR", map[string]any{"index": 32}), "InvalidIndex"},
		{"extend the image's", request("ExtendPCR", map[string]any{"index": 0, "data": []byte{1}}), "ReadOnlyIndex"},
		{"lock the image's", request("LockPCR", map[string]any{"index": 15}), "ReadOnlyIndex"},
		{"lock", request("LockPCR", sixteen()), "LockPCR"},
		{"lock again", request("LockPCR", sixteen()), "ReadOnlyIndex"},
		{"extend a locked one", request("ExtendPCR", sixteen("data", []byte("data"))), "ReadOnlyIndex"},
		{"lock many", request("LockPCRs", map[string]any{"range": 18}), "LockPCRs"},
		{"lock too many", request("LockPCRs", map[string]any{"range": 33}), "InvalidIndex"},
		{"no index", request("LockPCR", map[string]any{}), "InvalidArgument"},
		{"no range", request("LockPCRs", map[string]any{}), "InvalidArgument"},
		{"attest", request("Attestation", map[string]any{"nonce": make([]byte, 1024)}), "Attestation"},
		{"attest too much", request("Attestation", map[string]any{"nonce": make([]byte, 1025)}), "InputTooLarge"},
		{"unknown", "Dance", "InvalidOperation"},
		{"two requests", map[string]any{"GetRandom": map[string]any{}, "DescribeNSM": map[string]any{}}, "InvalidOperation"},
		{"an unknown argument", request("DescribePCR", sixteen("more", 1)), "InvalidOperation"},
		{"a number", 7, "InvalidOperation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, err := cbor.Marshal(c.request)
			if err != nil {
				t.Fatal(err)
			}
			if got := named(t, m.Answer(raw)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	if value, locked := m.PCR(16); value != once || !locked {
		t.Errorf("PCR16 is %x, locked %v", value, locked)
	}
	if value, _ := m.PCR(0); value != (nitro.PCR{7}) {
		t.Errorf("PCR0 is %x", value)
	}
	for _, bad := range [][]byte{nil, {0xff}, bytes.Repeat([]byte{0x81}, 100), make([]byte, nsm.MaxRequest+1)} {
		if got := named(t, m.Answer(bad)); got != "InvalidOperation" && got != "InputTooLarge" {
			t.Errorf("%.10x: %s", bad, got)
		}
	}
}

// named is what an answer is an answer to.
func named(t *testing.T, answer []byte) string {
	t.Helper()
	if len(answer) > nsm.MaxResponse {
		t.Errorf("%d bytes, the driver has room for %d", len(answer), nsm.MaxResponse)
	}
	var name string
	if cbor.Unmarshal(answer, &name) == nil {
		return name
	}
	var whole map[string]any
	if err := cbor.Unmarshal(answer, &whole); err != nil || len(whole) != 1 {
		t.Fatalf("%x: %v", answer, err)
	}
	for name, value := range whole {
		if name == "Error" {
			return value.(string)
		}
		return name
	}
	panic("unreachable")
}

// A module goes on for weeks: its documents are good at their time under the one root.
func TestCertificatesAreRenewed(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	m, err := nsm.New(nsm.Options{Now: func() time.Time { return now }, Image: eif.Measurements{PCR0: eif.PCR{1}}})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := nitro.ParseRoots(m.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := nitro.NewVerifier(nitro.Config{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	request, _ := cbor.Marshal(map[string]any{"Attestation": map[string]any{"nonce": []byte("nonce")}})
	for _, step := range []time.Duration{0, 29 * time.Minute, time.Hour, 10 * time.Hour, 13 * time.Hour, 15 * 24 * time.Hour} {
		now = now.Add(step)
		var answer struct {
			Attestation struct {
				Document []byte `cbor:"document"`
			}
		}
		if err := cbor.Unmarshal(m.Answer(request), &answer); err != nil {
			t.Fatal(err)
		}
		d, err := verifier.Verify(answer.Attestation.Document, nitro.Expected{At: now, Nonce: []byte("nonce"), PCRs: map[int]nitro.PCR{0: {1}}})
		if err != nil || d.NotAfter.Sub(now) < 30*time.Minute || len(d.PCRs) != 16 {
			t.Errorf("at %s: %+v, %v", now, d, err)
		}
	}
	other, err := nitro.NewVerifier(nitro.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Attestation struct{ Document []byte } }
	cbor.Unmarshal(m.Answer(request), &answer)
	if _, err := other.Verify(answer.Attestation.Document, nitro.Expected{At: now}); err == nil || !strings.Contains(err.Error(), "not a trusted root") {
		t.Errorf("under the AWS root: %v", err)
	}
}
