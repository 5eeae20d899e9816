package policy

import (
	"errors"
	"fmt"
)

// Bounds of a table. Thousands of rules of ordinary shape stay far below them: rules with many wildcards side by side
// (**/*a????????) multiply states, and reach them.
const (
	maxTableStates = 1 << 18
	maxTableCells  = 1 << 20 // 8 MiB

	// tableBudget bounds the time to compile, in steps of pattern states: less than a second or two of one core.
	tableBudget = 20_000_000
)

// ErrTable says that file rules make a table beyond its bounds. They can still be decided by Rules.
var ErrTable = errors.New("file rules are too intricate for a table")

// Cell is one element of a table, in the layout of bpf/include/automaton.h (struct cell), which says what it means.
type Cell struct {
	Owner uint32
	Next  uint32
}

// Table is the file rules of a permit as one deterministic automaton over the bytes of a path, for programs that cannot run
// Rules: BPF. A path in it takes at most two steps per byte, however many rules there are. It is immutable.
type Table struct {
	Cells []Cell   // at most 2^20
	Rules []string // the patterns of deny, then those of require_approval, as the policy writes them
}

// States that are the same in each table: nothing matches whatever follows; nothing has been read.
const (
	tableRefused = 0
	tableStart   = 1
)

// What Cell.Owner holds in a state's own cell: OUTCOME_ and AUTOMATON_ in bpf/include/automaton.h.
const (
	outcomeLists       = 1<<listCount - 1
	outcomeUniform     = 1 << 5
	outcomeSharedShift = 6
	outcomeRuleShift   = 11
	cellOwn            = 1 << 31
)

// FileTable compiles the file rules into a table, which decides every path as FileRules does. The policy must be expanded and
// have file rules. What exceeds the bounds is ErrTable.
func (p *Policy) FileTable() (*Table, error) {
	if p.Filesystem == nil {
		return nil, errors.New("compile file rules: the policy has none")
	}
	m := newAutomaton()
	m.budget = tableBudget
	b := &tableBuilder{nfa: m, rule: map[int32]uint32{}, index: map[string]int32{}}
	for l := range listCount {
		for _, text := range p.Filesystem.patterns(l) {
			if err := b.add(text, l); err != nil {
				return nil, err
			}
		}
	}
	if err := b.build(); err != nil {
		return nil, err
	}
	b.share()
	b.reduce()
	cells, err := b.pack()
	if err != nil {
		return nil, err
	}
	return &Table{Cells: cells, Rules: b.rules}, nil
}

// Decide answers as Rules.Decide does, from the cells, as a BPF program would. Where several rules refuse or ask, it may name
// another one of them; for what is granted it names none.
func (t *Table) Decide(path string, a Access) Decision {
	at := uint32(tableStart)
	for i := range len(path) {
		at = t.next(at, path[i])
	}
	outcome := t.Cells[at].Owner
	d := Decision{Verdict: mask(outcome & outcomeLists).verdict(a)}
	rule := outcome &^ cellOwn >> outcomeRuleShift
	if rule != 0 && (d.Verdict == VerdictApproval || outcome&uint32(listDeny.bit()) != 0) {
		d.Rule = t.Rules[rule-1]
	}
	return d
}

func (t *Table) next(at uint32, c byte) uint32 {
	if i := at + uint32(c); i < uint32(len(t.Cells)) && t.Cells[i].Owner == at {
		return t.Cells[i].Next
	}
	return t.Cells[at].Next
}

func beyondTable(what string) error {
	return fmt.Errorf("%w: %s: write fewer patterns with several * or ?, or name folders before them", ErrTable, what)
}
