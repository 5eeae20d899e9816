package doctor

import (
	"fmt"
	"io"
	"strings"
)

// The colours of a terminal (ECMA-48 select graphic rendition).
var colours = map[Status]string{OK: "\x1b[32m", Info: "\x1b[36m", Warn: "\x1b[33m", Fail: "\x1b[31m"}

const (
	bold  = "\x1b[1m"
	faint = "\x1b[2m"
	plain = "\x1b[0m"
)

// Print writes the report for a person, with the colours of a terminal if colour is set. Lines of a check that is fine stay
// short; the others say what follows and what to do.
func (r *Report) Print(out io.Writer, colour bool) error {
	paint := func(code, text string) string {
		if !colour {
			return text
		}
		return code + text + plain
	}
	width := 0
	for _, c := range r.Checks {
		width = max(width, len(c.Name))
	}
	var b strings.Builder
	indent := strings.Repeat(" ", width+8)
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%s  %-*s  %s\n", paint(colours[c.Status], fmt.Sprintf("%-4s", c.Status)), width, c.Name, c.Found)
		if c.Consequence != "" {
			fmt.Fprintf(&b, "%s%s\n", indent, paint(faint, c.Consequence))
		}
		if c.Fix != "" {
			label := "fix"
			if c.Status != Warn && c.Status != Fail {
				label = "optional"
			}
			fmt.Fprintf(&b, "%s%s: %s\n", indent, label, c.Fix)
		}
	}
	fmt.Fprintf(&b, "\nbackend  %s\ntier     %s\n", r.Backend, r.Tier)
	b.WriteString(r.holds())
	for _, line := range r.summary() {
		fmt.Fprintln(&b, paint(bold, line))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *Report) summary() []string {
	var lines []string
	if !r.Complete {
		lines = append(lines, "Not everything could be looked at: sudo raypher doctor looks at the rest.")
	}
	if r.CanRun {
		return append(lines, "The guard can run here.")
	}
	var failed []string
	for _, c := range r.Checks {
		if c.Status == Fail {
			failed = append(failed, c.Name)
		}
	}
	return append(lines, "The guard cannot run here: "+strings.Join(failed, ", ")+".")
}
