package draft

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/raypher/raypher/policy"
)

// YAML is the draft as a policy file. Each of head becomes a line of comment at its top.
func (d *Draft) YAML(head ...string) []byte {
	var b bytes.Buffer
	for _, line := range head {
		comment(&b, "", line)
	}
	d.headComments(&b)
	b.WriteString("mode: enforce\n")
	d.section(&b, "filesystem", []string{ListRead, ListWrite, ListExec}, "")
	if len(d.Denied) > 0 {
		b.WriteString("  # withheld, and one of the patterns above would grant it\n")
		items(&b, "deny", d.Denied)
	}
	if d.Risky == Ask {
		var asked []string
		for _, r := range d.Rules {
			if r.Grade == GradeRisky && accessOf(r.List) != 0 {
				asked = append(asked, r.Pattern)
			}
		}
		items(&b, "require_approval", compacted(asked))
	}
	d.section(&b, "network", []string{ListEgress, ListListen, ListUnix}, "  on_deny: reject\n")
	d.syscalls(&b)
	return b.Bytes()
}

// Paste is the draft's rules as lines to put into a policy, at most so many; how many were left out.
func (d *Draft) Paste(most int) (lines []string, left int) {
	last := ""
	for _, r := range d.Rules {
		if len(lines) >= most {
			left++
			continue
		}
		key := "filesystem." + r.List
		switch r.List {
		case ListEgress, ListListen, ListUnix:
			key = "network." + r.List
		case ListSyscalls:
			key = r.List
		}
		if key != last {
			lines = append(lines, key+":")
		}
		last = key
		line := "  - " + quoted(r.Pattern)
		if r.List == ListSyscalls {
			line = "  " + r.Pattern + ": allow"
		}
		if r.Grade != GradeNone {
			line += "  # " + string(r.Grade) + ": " + r.Why
		}
		lines = append(lines, line)
	}
	return lines, left
}

func (d *Draft) headComments(b *bytes.Buffer) {
	if d.Lost != "" {
		comment(b, "", "INCOMPLETE: "+d.Lost+". Run it again; what is missing here is refused.")
	}
	if n := len(d.Withheld()); n > 0 {
		comment(b, "", fmt.Sprintf("%d risky rules are withheld (--risky %s): read them below, and take out the # where they are meant.", n, d.Risky))
	}
	for i, line := range d.Beyond {
		const most = 20
		if i == most {
			comment(b, "", fmt.Sprintf("and %d more that no policy grants", len(d.Beyond)-most))
			break
		}
		comment(b, "", "not granted: "+line)
	}
}

// section writes one section with those of its lists that have rules.
func (d *Draft) section(b *bytes.Buffer, name string, lists []string, always string) {
	granted := slices.ContainsFunc(d.Rules, func(r Rule) bool { return slices.Contains(lists, r.List) && !d.withheld(r) })
	if !granted && always == "" && (name != "filesystem" || len(d.Denied) == 0) {
		b.WriteString(name + ": {}\n")
		for _, list := range lists {
			d.comments(b, list)
		}
		return
	}
	b.WriteString(name + ":\n" + always)
	for _, list := range lists {
		var own []Rule
		some := false
		for _, r := range d.Rules {
			if r.List == list {
				own = append(own, r)
				some = some || !d.withheld(r)
			}
		}
		if len(own) == 0 {
			continue
		}
		if !some {
			d.comments(b, list)
			continue
		}
		b.WriteString("  " + list + ":\n")
		for _, r := range own {
			d.item(b, r, "    ")
		}
	}
}

// comments are the rules of a list of which none is granted.
func (d *Draft) comments(b *bytes.Buffer, list string) {
	first := true
	for _, r := range d.Rules {
		if r.List != list {
			continue
		}
		if first {
			b.WriteString("  # " + list + ":\n")
		}
		first = false
		d.item(b, r, "    ")
	}
}

func (d *Draft) item(b *bytes.Buffer, r Rule, indent string) {
	if r.Grade != GradeNone {
		comment(b, indent, string(r.Grade)+": "+r.Why)
	}
	before := ""
	if d.withheld(r) {
		before = "# "
	}
	line := indent + before + "- " + quoted(r.Pattern)
	if r.Stands > 1 {
		line += fmt.Sprintf(" # %d paths", r.Stands)
	}
	b.WriteString(line + "\n")
}

func (d *Draft) syscalls(b *bytes.Buffer) {
	first := true
	for _, r := range d.Rules {
		if r.List != ListSyscalls {
			continue
		}
		before := ""
		if d.withheld(r) {
			before = "# "
		}
		if first {
			b.WriteString(before + "syscalls:\n")
			first = false
		}
		comment(b, "  ", string(r.Grade)+": "+r.Why)
		b.WriteString(before + "  " + r.Pattern + ": allow\n")
	}
}

func items(b *bytes.Buffer, key string, patterns []string) {
	if len(patterns) == 0 {
		return
	}
	b.WriteString("  " + key + ":\n")
	for _, p := range patterns {
		b.WriteString("    - " + quoted(p) + "\n")
	}
}

func compacted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// comment writes a line of comment. What an agent chose must not end it.
func comment(b *bytes.Buffer, indent, text string) {
	b.WriteString(indent + "# " + strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) { // also what turns the direction of writing: a person reads it
			return '?'
		}
		return r
	}, text) + "\n")
}

// quoted is a pattern as a scalar of YAML in double quotes (YAML 1.2, section 7.3.1).
func quoted(pattern string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range pattern {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case !strconv.IsPrint(r): // also what turns the direction of writing: a person reads it
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Policy is what the draft's file says, read by the parser of the language.
func (d *Draft) Policy() (*policy.Policy, error) { return policy.Parse("draft", d.YAML()) }
