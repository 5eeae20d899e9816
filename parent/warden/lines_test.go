package warden

import (
	"bytes"
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
)

func TestFormatVerdict(t *testing.T) {
	for _, tt := range []struct {
		verdict journal.Verdict
		want    string
	}{
		{journal.Verdict{Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/etc/shadow", Errno: 13},
			"raypher: blocked open-read /etc/shadow (no rule grants it) EACCES [broker]"},
		{journal.Verdict{Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/w/x (rule: forged) EACCES [broker]"},
			`raypher: blocked open-read "/w/x (rule: forged) EACCES [broker]" (no rule grants it) [broker]`},
		{journal.Verdict{Decision: journal.Block, Layer: "broker", Operation: "unlink", Target: `/w/"quoted"`},
			`raypher: blocked unlink "/w/\"quoted\"" (no rule grants it) [broker]`},
		{journal.Verdict{Decision: journal.Block, Layer: "broker", Operation: "unlink", Target: "/w/\x1b[2Jx"},
			`raypher: blocked unlink "/w/\x1b[2Jx" (no rule grants it) [broker]`},
		{journal.Verdict{Decision: journal.Block, Layer: "broker", Operation: "unlink", Target: "/w/two words", Rule: "/w/*"},
			`raypher: blocked unlink "/w/two words" (rule: /w/*) [broker]`},
		{journal.Verdict{Decision: journal.Block, Layer: "kernel", Operation: "connect", Target: "[2001:db8::1]:443/tcp", Count: 3},
			"raypher: blocked connect [2001:db8::1]:443/tcp (no rule grants it) [kernel] 3 times"},
		{journal.Verdict{Decision: journal.Block, Layer: "kernel", Operation: "connect", Target: "/run/a (b)"},
			`raypher: blocked connect "/run/a (b)" (no rule grants it) [kernel]`},
		{journal.Verdict{Decision: journal.Block, Layer: "dns", Operation: "resolve", Target: "evil.example A/udp"},
			"raypher: blocked resolve evil.example A/udp (no rule grants it) [dns]"},
		{journal.Verdict{Decision: journal.Block, Layer: "dns", Operation: "resolve", Target: "a (b).example A/udp"},
			`raypher: blocked resolve "a (b).example" A/udp (no rule grants it) [dns]`},
		{journal.Verdict{Decision: journal.Block, Layer: "seccomp", Operation: "socket", Target: "family 2, raw, protocol 1", Errno: 1},
			"raypher: blocked socket family 2, raw, protocol 1 EPERM [seccomp]"},
	} {
		if got := FormatVerdict(tt.verdict, false); got != tt.want {
			t.Errorf("%+v\n is %s\nnot %s", tt.verdict, got, tt.want)
		}
	}
}

// The JSON of a run names a visa as that of events and evidence does.
func TestVerdictAsJSON(t *testing.T) {
	var out bytes.Buffer
	l := NewLines(&out, true, false)
	l.Verdict(journal.Verdict{Decision: journal.Block, Operation: "connect", VisaID: []byte{0x0a, 0xff}})
	l.Close()
	if got := out.String(); strings.Count(got, `"visa_id"`) != 1 || !strings.Contains(got, `"visa_id":"0aff"`) {
		t.Errorf("%s", got)
	}
}
