package main

import (
	"bytes"
	"strings"
	"testing"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

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
