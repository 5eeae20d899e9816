package main

import (
	"strings"
	"testing"
	"time"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// TestPrintTraffic: the table is plain text, with rates where there is an earlier one, and what is cut below it.
func TestPrintTraffic(t *testing.T) {
	reply := func(out uint64) *parentv1.NetworkTrafficReply {
		return &parentv1.NetworkTrafficReply{Agents: []*parentv1.AgentTraffic{
			{AgentId: "a1", Name: "one\x1b[2J", Rules: []*parentv1.RuleTraffic{
				{Rule: "egress api.example.com:443", PacketsOut: 3, BytesOut: out, PacketsIn: 2, BytesIn: 999},
				{Rule: "default", DroppedPackets: 7},
			}, Cuts: []*parentv1.NetworkCut{{Address: "10.0.0.0/8", Reject: true, User: "root"}, {Name: "*.example.com", User: "ann"}}},
			{AgentId: "b2", Name: "two", Cuts: []*parentv1.NetworkCut{{User: "root"}}},
		}}
	}
	var out strings.Builder
	if err := printTraffic(&out, reply(5_000_000), reply(3_000_000), 2*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"egress api.example.com:443", "5.0 MB", "999 B", "1.0 MB/s", "7  ", "nothing yet",
		"agent a1 is cut off 10.0.0.0/8 (with an error) by root, *.example.com by ann", "agent b2 is cut off everything by root",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("a name of an agent reaches the terminal as it is: %q", out.String())
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 1 << 63: "9.2 EB"} {
		if got := volume(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
}
