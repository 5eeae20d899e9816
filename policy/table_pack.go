package policy

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// reaches is for each state of the patterns the tags of all states that can follow it. Edges lead to states that were made
// later, loops apart.
func (m *automaton) reaches() []mask {
	reach := make([]mask, len(m.states))
	for i := len(m.states) - 1; i >= 0; i-- {
		s := &m.states[i]
		reach[i] = s.tag | s.sure
		for _, edge := range s.chars {
			reach[i] |= reach[edge.to]
		}
		for _, to := range []int32{s.any, s.star, s.inner, s.after} {
			if to != none {
				reach[i] |= reach[to]
			}
		}
	}
	return reach
}

// What the clean paths that go on from a state have in common. Otherwise it is the lists that all of them are in.
const (
	sharedUnknown = -1 // there are none
	sharedNothing = -2 // they are in different lists
)

// share marks the states from which every clean path is in the same lists.
func (b *tableBuilder) share() {
	shared := make([]int, len(b.states))
	for at := range b.states {
		shared[at] = sharedUnknown
		if b.ends(&b.states[at]) {
			shared[at] = int(b.states[at].outcome & outcomeLists)
		}
	}
	for changed := true; changed; {
		changed = false
		for at := len(b.states) - 1; at >= 0; at-- {
			was, s := shared[at], &b.states[at]
			shared[at] = join(was, shared[s.other])
			for _, e := range s.edges {
				shared[at] = join(shared[at], shared[e.to])
			}
			changed = changed || shared[at] != was
		}
	}
	for at := range b.states {
		switch lists := shared[at]; lists {
		case sharedNothing:
		case sharedUnknown:
			b.states[at].outcome |= outcomeUniform
		default:
			b.states[at].outcome |= outcomeUniform | uint32(lists)<<outcomeSharedShift
		}
	}
}

func join(a, b int) int {
	switch {
	case a == sharedUnknown || a == b:
		return b
	case b == sharedUnknown:
		return a
	}
	return sharedNothing
}

// ends reports whether a clean path may end in s.
func (b *tableBuilder) ends(s *tableState) bool {
	return s.root || s.begun.count > 0 || s.place.ends() && s.place != atStart
}

// reduce makes states one that have the same outcome and lead to the same states, themselves counted as the same. Patterns
// that end alike share their states then.
func (b *tableBuilder) reduce() {
	into := make([]int32, len(b.states))
	for at := range into {
		into[at] = int32(at)
	}
	var key []byte
	for {
		known := make(map[string]int32, len(b.states))
		merged := false
		for i := range b.states {
			at := int32(len(b.states) - i)
			if i == 0 {
				at = stateRefused // first, so that others become it
			}
			if into[at] != at {
				continue
			}
			key = b.rowKey(key[:0], at, into)
			same, ok := known[string(key)]
			if !ok {
				known[string(key)] = at
			} else if at != stateStart {
				into[at], merged = same, true
			}
		}
		if !merged {
			break
		}
		// A state that was taken may itself have been merged since.
		for at := range into {
			for into[at] != into[into[at]] {
				into[at] = into[into[at]]
			}
		}
	}
	for at := range b.states {
		s := &b.states[at]
		s.other = into[s.other]
		for i := range s.edges {
			s.edges[i].to = into[s.edges[i].to]
		}
		s.edges = slices.DeleteFunc(s.edges, func(e byteEdge) bool { return e.to == s.other })
	}
}

// rowKey is what a state is, when the states are one that into makes one.
func (b *tableBuilder) rowKey(key []byte, at int32, into []int32) []byte {
	const self = ^uint32(0)
	target := func(to int32) uint32 {
		if to = into[to]; to == at {
			return self
		}
		return uint32(to)
	}
	s := &b.states[at]
	other := target(s.other)
	key = binary.LittleEndian.AppendUint32(key, s.outcome)
	key = binary.LittleEndian.AppendUint32(key, other)
	for _, e := range s.edges {
		if to := target(e.to); to != other {
			key = binary.LittleEndian.AppendUint32(append(key, e.b), to)
		}
	}
	return key
}

// pack lays the states that can be reached into cells: the widest first, the others into the gaps.
func (b *tableBuilder) pack() ([]Cell, error) {
	order := b.reachable()
	slices.SortStableFunc(order, func(x, y int32) int { return len(b.states[y].edges) - len(b.states[x].edges) })
	p := packing{base: make([]uint32, len(b.states)), used: make([]bool, 1024)}
	p.take(tableRefused, &tableState{})
	p.base[stateStart] = tableStart
	p.take(tableStart, &b.states[stateStart])
	for _, at := range order {
		p.base[at] = p.place(&b.states[at])
		if p.end > maxTableCells-256 {
			return nil, beyondTable(fmt.Sprintf("more than %d cells", maxTableCells))
		}
	}
	cells := make([]Cell, p.end)
	fill := func(at int32) {
		s, base := &b.states[at], p.base[at]
		cells[base] = Cell{Owner: s.outcome, Next: p.base[s.other]}
		for _, e := range s.edges {
			cells[base+uint32(e.b)] = Cell{Owner: base, Next: p.base[e.to]}
		}
	}
	fill(stateRefused)
	fill(stateStart)
	for _, at := range order {
		fill(at)
	}
	return cells, nil
}

// reachable lists the states that paths lead to, but for the refused one, which leads to nothing else, and the start.
func (b *tableBuilder) reachable() []int32 {
	seen := make([]bool, len(b.states))
	seen[stateRefused], seen[stateStart] = true, true
	found := []int32{stateStart}
	for i := 0; i < len(found); i++ {
		s := &b.states[found[i]]
		for _, to := range append([]int32{s.other}, edgeTargets(s.edges)...) {
			if !seen[to] {
				seen[to] = true
				found = append(found, to)
			}
		}
	}
	return found[1:]
}

func edgeTargets(edges []byteEdge) []int32 {
	targets := make([]int32, len(edges))
	for i, e := range edges {
		targets[i] = e.to
	}
	return targets
}

// packing gives states their places in the array. States come with the widest first.
type packing struct {
	base  []uint32 // of each state
	used  []bool
	width int    // edges of the last state
	from  uint32 // where the last state of that width went: below, none of its width was found to fit
	end   uint32 // one more than the last used cell
}

// place finds a free place for s and takes it.
func (p *packing) place(s *tableState) uint32 {
	if len(s.edges) != p.width {
		p.width, p.from = len(s.edges), 0
	}
	for !p.fits(p.from, s) {
		p.from++
	}
	p.take(p.from, s)
	return p.from
}

func (p *packing) fits(base uint32, s *tableState) bool {
	free := func(i uint32) bool { return i >= uint32(len(p.used)) || !p.used[i] }
	if !free(base) {
		return false
	}
	for _, e := range s.edges {
		if !free(base + uint32(e.b)) {
			return false
		}
	}
	return true
}

func (p *packing) take(base uint32, s *tableState) {
	for need := int(base) + 256; need > len(p.used); {
		p.used = append(p.used, make([]bool, len(p.used))...)
	}
	use := func(i uint32) {
		p.used[i] = true
		p.end = max(p.end, i+1)
	}
	use(base)
	for _, e := range s.edges {
		use(base + uint32(e.b))
	}
}
