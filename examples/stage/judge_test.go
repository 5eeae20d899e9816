package stage

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/raypher/raypher/examples/scripted"
)

// TestJudge: a demonstration that could not fail would show nothing. Each row is what one step left behind, and whether that
// must count as a difference from the policy.
func TestJudge(t *testing.T) {
	nowhere, written := filepath.Join(t.TempDir(), "gone"), filepath.Join(t.TempDir(), "written")
	if err := os.WriteFile(written, []byte("planted\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	block := scripted.Expect{Verdict: scripted.Block, Target: "id_rsa", Hidden: "KEY", Arrives: "stolen"}
	evidence := []Evidence{{Decision: "block", Operation: "open-read", Target: "/home/.ssh/id_rsa", Count: 1}}
	denied := []Evidence{{Decision: "deny", Operation: "open-read", Target: "/home/.ssh/id_rsa", Count: 1}}
	approved := []Evidence{{Decision: "approve", Operation: "open-read", Target: "/home/.ssh/id_rsa", Count: 1}}
	ok := func(result string) bool { return result == "ok" }
	for _, test := range []struct {
		name    string
		expect  scripted.Expect
		act     act
		differs bool
	}{
		{"allowed, and it worked", scripted.Expect{Verdict: scripted.Allow, Result: "fine"}, act{results: []string{"all fine"}}, false},
		{"allowed, and it failed", scripted.Expect{Verdict: scripted.Allow, Result: "fine"}, act{results: []string{"refused"}}, true},
		{"allowed, and the tool failed", scripted.Expect{Verdict: scripted.Allow}, act{results: []string{"no"}, succeeded: ok}, true},
		{"blocked and proven", block, act{results: []string{"refused"}, evidence: evidence}, false},
		{"blocked without proof", block, act{results: []string{"refused"}}, true},
		{"proof of something else", scripted.Expect{Verdict: scripted.Block, Target: "tax.txt"}, act{results: []string{"refused"}, evidence: evidence}, true},
		{"proof of another operation", scripted.Expect{Verdict: scripted.Block, Target: "id_rsa", Operations: []string{"unlink"}}, act{results: []string{""}, evidence: evidence}, true},
		{"proof of a mere warning", block, act{results: []string{""}, evidence: []Evidence{{Decision: "would-block", Target: "id_rsa", Count: 1}}}, true},
		{"the secret was seen", block, act{results: []string{"KEY"}, evidence: evidence}, true},
		{"the data arrived", block, act{results: []string{""}, evidence: evidence, arrivals: []Arrival{{Text: "stolen"}}}, true},
		{"the file is gone", scripted.Expect{Verdict: scripted.Block, Target: "id_rsa", Gone: nowhere}, act{results: []string{""}, evidence: evidence}, true},
		{"the file was written", scripted.Expect{Verdict: scripted.Block, Target: "id_rsa", Planted: scripted.Planted{Path: written, Text: "planted"}}, act{results: []string{""}, evidence: evidence}, true},
		{"the file holds something else", scripted.Expect{Verdict: scripted.Block, Target: "id_rsa", Planted: scripted.Planted{Path: written, Text: "other"}}, act{results: []string{""}, evidence: evidence}, false},
		{"the tool reports success", block, act{results: []string{"ok"}, evidence: evidence, succeeded: ok}, true},
		{"a person's refusal is proven", scripted.Expect{Verdict: scripted.Block, Answer: scripted.Deny, Target: "id_rsa"}, act{results: []string{""}, evidence: denied}, false},
		{"a person's refusal is not", scripted.Expect{Verdict: scripted.Block, Answer: scripted.Deny, Target: "id_rsa"}, act{results: []string{""}, evidence: evidence}, true},
		{"a person's yes is proven", scripted.Expect{Verdict: scripted.Allow, Answer: scripted.Approve, Target: "id_rsa"}, act{results: []string{""}, evidence: approved}, false},
		{"a person's yes is not", scripted.Expect{Verdict: scripted.Allow, Answer: scripted.Approve, Target: "id_rsa"}, act{results: []string{""}, evidence: denied}, true},
		{"the agent never got there", block, act{evidence: evidence}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			script := &scripted.Script{Steps: []scripted.Step{{Name: test.name, Expect: test.expect}}}
			test.act.script = script
			outcomes := blank(script)
			judgeGoverned(outcomes, &test.act)
			if differs := report(io.Discard, outcomes) > 0; differs != test.differs {
				t.Errorf("differs: %v, want %v: %v", differs, test.differs, outcomes[0].Problems)
			}
		})
	}
}

// TestEachStepNeedsItsOwnEvidence: one entry proves as many refusals as it counts.
func TestEachStepNeedsItsOwnEvidence(t *testing.T) {
	step := scripted.Step{Name: "attack", Expect: scripted.Expect{Verdict: scripted.Block, Target: "id_rsa"}}
	script := &scripted.Script{Steps: []scripted.Step{step, step, step}}
	for _, test := range []struct {
		name   string
		counts []uint32
		differ int
	}{{"one for all", []uint32{3}, 0}, {"one for each", []uint32{1, 1, 1}, 0}, {"one is missing", []uint32{2}, 1}} {
		governed := &act{script: script, results: []string{"", "", ""}}
		for _, count := range test.counts {
			governed.evidence = append(governed.evidence, Evidence{Decision: "block", Target: "/.ssh/id_rsa", Count: count})
		}
		outcomes := blank(script)
		judgeGoverned(outcomes, governed)
		if differ := report(io.Discard, outcomes); differ != test.differ {
			t.Errorf("%s: %d steps differ, want %d", test.name, differ, test.differ)
		}
	}
}

// TestControlMustSucceed: an attack that fails without the guard proves nothing under it, and is reported.
func TestControlMustSucceed(t *testing.T) {
	script := &scripted.Script{Steps: []scripted.Step{
		{Name: "only governed", GovernedOnly: true},
		{Name: "attack", Expect: scripted.Expect{Verdict: scripted.Block, Arrives: "stolen"}},
	}}
	for _, test := range []struct {
		arrivals []Arrival
		problems int
	}{{[]Arrival{{Text: "stolen"}}, 0}, {nil, 1}} {
		outcomes := blank(script)
		judgeControl(outcomes, &act{script: script.Ungoverned(), results: []string{"sent"}, arrivals: test.arrivals})
		if len(outcomes[1].Problems) != test.problems || len(outcomes[0].Problems) != 0 {
			t.Errorf("arrivals %v: problems %v", test.arrivals, outcomes[1].Problems)
		}
	}
}

// TestDescribePackets: what the attacker's wire shows, and what links send by themselves.
func TestDescribePackets(t *testing.T) {
	ipv4 := append([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 66, 1, 1, 10, 66, 2, 2}, 0x30, 0x39, 0x27, 0x0f, 0, 8, 0, 0)
	ipv6 := func(next, first byte) []byte {
		packet := make([]byte, 48)
		packet[0], packet[6], packet[40] = 0x60, next, first
		return packet
	}
	for _, test := range []struct {
		name   string
		packet []byte
		want   string
		counts bool
	}{
		{"UDP over IPv4", ipv4, "protocol 17 from 10.66.1.1 to 10.66.2.2:9999", true},
		{"ping over IPv6", ipv6(58, 128), "protocol 58 from :: to [::]:0", true},
		{"neighbour solicitation", ipv6(58, 135), "", false},
		{"listener report", ipv6(0, 0), "", false},
		{"nothing", nil, "", false},
		{"cut short", []byte{0x45, 0}, "", false},
	} {
		text, counts := describe(test.packet)
		if counts != test.counts || text != test.want {
			t.Errorf("%s: %q, %v", test.name, text, counts)
		}
	}
}

// TestChanged: what an agent does to the belongings of the person is seen, whatever the script looked for.
func TestChanged(t *testing.T) {
	before := map[string]string{"/a": "1", "/b": "2", "/c": "3"}
	after := map[string]string{"/a": "1", "/b": "x", "/d": "4"}
	if got := changed(before, after); len(got) != 3 {
		t.Errorf("%q", got)
	}
	if got := changed(before, before); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
