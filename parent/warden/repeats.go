package warden

import (
	"fmt"
	"slices"
	"time"

	"github.com/raypher/raypher/journal"
)

// A program that tries the same thing again and again must not bury what else its person reads: the line comes at once, and then
// after a wait that doubles.
const (
	firstWait = 10 * time.Second
	longWait  = 10 * time.Minute
	// The end is said after the program's own last words, and maybe after the next prompt: only of what came often.
	often      = 10
	maxRepeats = 1024 // different lines that are told apart; further ones are printed as they come
)

// repeats counts the lines that were printed, by their words.
type repeats map[string]*repeat

type repeat struct {
	total   uint64 // of all verdicts so far
	printed uint64 // how many of them the last line spoke of
	next    time.Time
	wait    time.Duration
}

// add counts a verdict and says whether a line is due, and which.
func (r repeats) add(v journal.Verdict, color bool, now time.Time) (line string, due bool) {
	count := uint64(max(v.Count, 1))
	line = FormatVerdict(v, color)
	v.Count = 1
	words := FormatVerdict(v, color)
	one := r[words]
	if one == nil {
		if len(r) < maxRepeats {
			r[words] = &repeat{total: count, printed: count, next: now.Add(firstWait), wait: firstWait}
		}
		return line, true
	}
	one.total += count
	if now.Before(one.next) {
		return "", false
	}
	one.wait = min(2*one.wait, longWait)
	one.next = now.Add(one.wait)
	return one.say(words), true
}

func (o *repeat) say(words string) string {
	o.printed = o.total
	return fmt.Sprintf("%s %d times so far", words, o.total)
}

// rest are the lines for what came often and was not said to its end.
func (r repeats) rest() (lines []string) {
	for words, one := range r {
		if one.total > one.printed && one.total >= often {
			lines = append(lines, one.say(words))
		}
	}
	slices.Sort(lines)
	return lines
}
