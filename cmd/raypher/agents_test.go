package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// The status for programs has the epoch and the key as everything else writes them.
func TestStatusAsJSON(t *testing.T) {
	var out bytes.Buffer
	if err := printJSON(&out, statusLine(&parentv1.StatusReply{Epoch: []byte{0xab, 0x01}, EnclaveKey: []byte("der"), CeilingVersion: 7, EnclaveReachable: true})); err != nil {
		t.Fatal(err)
	}
	var got statusJSON
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Epoch != "ab01" || !strings.HasPrefix(got.EnclaveKey, "sha256:") || len(got.EnclaveKey) != 71 || got.CeilingVersion != 7 {
		t.Errorf("%s, %v", out.String(), err)
	}
	if got := statusLine(&parentv1.StatusReply{}); got.EnclaveKey != "" || got.Epoch != "" {
		t.Errorf("an enclave that is away: %+v", got)
	}
}

// TestStatusIsPrintable: wardens name some of the counters, and a warden is a program of its user: what it says reaches no terminal as
// it is.
func TestStatusIsPrintable(t *testing.T) {
	var out bytes.Buffer
	s := &parentv1.StatusReply{Counters: map[string]uint64{"permissive_\x1b[2J\nceiling  version 9": 1}}
	if err := printStatus(&out, s, nil); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Contains(got, "\x1b") || strings.Contains(got, "\nceiling  version 9") {
		t.Errorf("%q", got)
	}
}
