package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a file. Line and Column start at 1; 0: not known.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

func (p *Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		b.WriteByte(':')
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	b.WriteString(p.Message)
	if p.Fix != "" {
		b.WriteString(": ")
		b.WriteString(p.Fix)
	}
	return b.String()
}

// Errors are all the mistakes of one file, in the order of the file.
type Errors []*Problem

// MaxErrorLines bounds the text of an error that lists what a hostile file can make long.
const MaxErrorLines = 100

// Error is one line for each of the first mistakes; the slice has them all.
func (e Errors) Error() string {
	lines := make([]string, 0, min(len(e), MaxErrorLines+1))
	for i, p := range e {
		if i == MaxErrorLines {
			lines = append(lines, fmt.Sprintf("and %d more", len(e)-i))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// Fault is what is wrong with a value, wherever it stands, and what to write instead.
type Fault struct{ Message, Fix string }

func (f *Fault) Error() string {
	if f.Fix == "" {
		return f.Message
	}
	return f.Message + ": " + f.Fix
}

// Faultf makes a Fault; the format is that of the message.
func Faultf(fix, format string, args ...any) *Fault {
	return &Fault{Message: fmt.Sprintf(format, args...), Fix: fix}
}

// Place is where a value stands in its file, for example filesystem.read[2] or grants[0].permit.
type Place string

// Key is the place of the key itself, where Place is that of its value.
func (p Place) Key() Place { return p + "@" }

// Item is the place of an item of a list.
func (p Place) Item(i int) Place { return Place(fmt.Sprintf("%s[%d]", p, i)) }

// outer is the place of the list or section that a place lies in.
func (p Place) outer() Place { return p[:max(0, strings.LastIndexAny(string(p), ".["))] }

// Shorten keeps messages readable when the value is not.
func Shorten(text string) string {
	if len(text) <= 80 {
		return text
	}
	return text[:77] + "..."
}

// sorted puts problems in the order of the file.
func sorted(problems Errors) Errors {
	slices.SortStableFunc(problems, func(a, b *Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return problems
}
