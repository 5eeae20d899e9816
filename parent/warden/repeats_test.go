package warden

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
)

// TestRepeats: what is tried again and again is said at once, then seldom, with how often it came.
func TestRepeats(t *testing.T) {
	refused := func(name string, count uint32) journal.Verdict {
		return journal.Verdict{Decision: journal.Block, Layer: "dns", Operation: "resolve", Target: name + " A/udp", Count: count}
	}
	start := time.Unix(1000, 0)
	seen := repeats{}
	var said []string
	say := func(v journal.Verdict, after time.Duration) {
		if line, due := seen.add(v, false, start.Add(after)); due {
			said = append(said, strings.TrimPrefix(line, "raypher: blocked resolve "))
		}
	}
	say(refused("evil.example", 1), 0)
	say(refused("evil.example", 7), time.Second)
	say(refused("other.example", 2), 2*time.Second)
	say(refused("evil.example", 1), 9*time.Second)
	say(refused("evil.example", 1), 10*time.Second) // the first wait is over
	say(refused("evil.example", 1), 25*time.Second) // and the second, of 20 s, is not
	say(refused("evil.example", 1), 31*time.Second)
	say(refused("evil.example", 1), 40*time.Second)
	for _, line := range seen.rest() {
		said = append(said, strings.TrimPrefix(line, "raypher: blocked resolve "))
	}
	const rule = " A/udp (no rule grants it) [dns]"
	want := []string{
		"evil.example" + rule,
		"other.example" + rule + " 2 times",
		"evil.example" + rule + " 10 times so far",
		"evil.example" + rule + " 12 times so far",
		"evil.example" + rule + " 13 times so far",
	}
	if !slices.Equal(said, want) {
		t.Errorf("said\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
}

// TestLines: words fold what repeats and leave out what programs only try; JSON has every verdict.
func TestLines(t *testing.T) {
	verdicts := []journal.Verdict{
		{Decision: journal.Log, Layer: "seccomp", Operation: "syscall", Target: "io_uring_setup", Errno: int32(unix.ENOSYS), Count: 1},
		{Decision: journal.Log, Layer: "broker", Operation: "syscall", Target: "kill", Count: 1},
		{Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/x", Count: 1},
		{Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/x", Count: 9},
		{Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/y", Count: 1},
		{Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/y", Count: 1},
	}
	print := func(asJSON bool) string {
		var out bytes.Buffer
		l := NewLines(&out, asJSON, false)
		for _, v := range verdicts {
			l.Verdict(v)
		}
		l.Close()
		return out.String()
	}
	want := "raypher: logged syscall kill [broker]\n" +
		"raypher: blocked open-read /x (no rule grants it) [broker]\n" +
		"raypher: blocked open-read /y (no rule grants it) [broker]\n" + // twice, which is not often
		"raypher: blocked open-read /x (no rule grants it) [broker] 10 times so far\n"
	if got := print(false); got != want {
		t.Errorf("printed\n%swant\n%s", got, want)
	}
	if got := print(true); strings.Count(got, "\n") != len(verdicts) || !strings.Contains(got, "io_uring_setup") {
		t.Errorf("as JSON:\n%s", got)
	}
}
