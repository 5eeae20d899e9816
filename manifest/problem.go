package manifest

import (
	"slices"

	"github.com/raypher/raypher/policy"
)

// problems collects everything that is wrong with a document while it is read.
type problems []*policy.Problem

func (ps *problems) add(line, col int, message, fix string) {
	*ps = append(*ps, &policy.Problem{Line: line, Column: col, Message: message, Fix: fix})
}

// err returns nil when there are no problems, else all of them as policy.Errors, sorted by place.
func (ps problems) err(file string) error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b *policy.Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	for _, p := range ps {
		p.File = file
	}
	return policy.Errors(ps)
}
