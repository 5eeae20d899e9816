package policy

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"
)

// Inclusion and intersection of path patterns are decided on the patterns themselves: all patterns become one
// nondeterministic automaton over characters, each with the bit of the list that it stands in, and a search walks the sets of
// states that paths can reach (the subset construction, made while walking). The search is exact: it finds a path with the
// wanted lists when there is one. Deciding inclusion is PSPACE-complete in the number of wildcards, so a search has a budget;
// a caller must take a search that ran out as the answer that grants less.

// searchBudget bounds one comparison of two policies, in state transitions: a fraction of a second of one core and some
// tens of megabytes at worst. Policies with hundreds of rules need less than a tenth of it.
const searchBudget = 5_000_000

// Characters that are no characters.
const (
	symbolOther rune = -1 // any character that no pattern names
	symbolHome  rune = -2 // the ~ at the start of a pattern that is not expanded
	symbolSlash rune = '/'
)

// none is the index of no state.
const none int32 = -1

// state is a point in the patterns. Patterns that start alike share their states up to where they part.
type state struct {
	chars []charEdge
	any   int32 // after one character but the slash
	star  int32 // reached without a character: the loop of a *
	inner int32 // after a slash: inside **
	after int32 // reached without a character: behind **
	loop  loop
	tag   mask // lists of the patterns that end here
	sure  mask // lists whose patterns match whatever follows
}

type charEdge struct {
	r  rune
	to int32
}

// loop is what a state takes and stays.
type loop uint8

const (
	loopNone loop = iota
	loopName      // inside *: every character but the slash
	loopAll       // inside **: everything
)

// automaton is the union of patterns. It belongs to one goroutine.
type automaton struct {
	states []state
	budget int
}

// maskSelf marks the patterns that a search walks along.
const maskSelf mask = 1 << 15

// newAutomaton makes the automaton of no pattern.
func newAutomaton() *automaton {
	m := &automaton{budget: searchBudget}
	m.newState()
	return m
}

func (m *automaton) newState() int32 {
	m.states = append(m.states, state{any: none, star: none, inner: none, after: none})
	return int32(len(m.states) - 1)
}

// add puts the patterns of text into the automaton under tag. Text that is no pattern adds nothing.
func (m *automaton) add(text string, tag mask) {
	patterns, f := parsePattern(text)
	if f != nil {
		return
	}
	for _, p := range patterns {
		m.addPattern(0, p, tag)
		if !p.home && len(p.components) == 1 && p.components[0].deep {
			p.home = true // /** also grants every home folder
			m.addPattern(0, p, tag)
		}
	}
}

// addPattern puts p behind the state at, and returns the state in which it ends.
func (m *automaton) addPattern(at int32, p pattern, tag mask) int32 {
	if p.home {
		at = m.char(at, symbolHome)
	}
	for i, c := range p.components {
		if c.deep {
			at = m.deep(at)
			if i == len(p.components)-1 {
				m.states[m.states[at].inner].sure |= tag
				at = m.states[at].after
				break
			}
			at = m.states[at].after
			continue
		}
		at = m.literal(m.char(at, symbolSlash), c.literal)
		for _, g := range c.glob {
			switch g.kind {
			case pieceOne:
				at = m.child(at, func(s *state) *int32 { return &s.any })
			case pieceStar:
				at = m.child(at, func(s *state) *int32 { return &s.star })
				m.states[at].loop = loopName
			default:
				at = m.literal(at, g.literal)
			}
		}
	}
	m.states[at].tag |= tag
	return at
}

// child returns the state that edge leads to, made when there is none.
func (m *automaton) child(at int32, edge func(*state) *int32) int32 {
	if to := *edge(&m.states[at]); to != none {
		return to
	}
	to := m.newState()
	*edge(&m.states[at]) = to
	return to
}

// deep gives at its inside and its behind of a **, and returns at.
func (m *automaton) deep(at int32) int32 {
	inner := m.child(at, func(s *state) *int32 { return &s.inner })
	after := m.child(at, func(s *state) *int32 { return &s.after })
	m.states[inner].loop = loopAll
	m.states[inner].after = after
	return at
}

func (m *automaton) char(at int32, r rune) int32 {
	for _, edge := range m.states[at].chars {
		if edge.r == r {
			return edge.to
		}
	}
	to := m.newState()
	m.states[at].chars = append(m.states[at].chars, charEdge{r, to})
	return to
}

func (m *automaton) literal(at int32, text string) int32 {
	for _, r := range text {
		at = m.char(at, r)
	}
	return at
}

// place is where in a path a search stands. Only clean paths are paths: a name is not empty, not . and not ..
type place uint8

const (
	atStart  place = iota // nothing read: the root folder
	atHome                // ~ read
	atSlash               // a name must follow
	inDot                 // the name is . so far
	inDotDot              // the name is .. so far
	inName
	nowhere
)

// ends reports whether a path may end here.
func (p place) ends() bool { return p == atStart || p == atHome || p == inName }

func (p place) next(r rune) place {
	switch {
	case r == symbolHome:
		if p == atStart {
			return atHome
		}
		return nowhere
	case r == symbolSlash:
		if p.ends() {
			return atSlash
		}
		return nowhere
	case p == atStart || p == atHome:
		return nowhere
	case r == '.' && p == atSlash:
		return inDot
	case r == '.' && p == inDot:
		return inDotDot
	}
	return inName
}

// point is one set of states that the search has reached, and how.
type point struct {
	states []int32
	place  place
	from   int // index of the point before
	symbol rune
}

// search walks all paths that match self. It returns a path whose set of lists is wanted. Where the lists of sure already hold
// whatever follows, settled says that no path from there on is wanted. ok is false when the budget ran out: then nothing is
// known.
func (m *automaton) search(self string, wanted, settled func(mask) bool) (example string, found, ok bool) {
	patterns, f := parsePattern(self)
	if f != nil {
		return "", false, true // no path matches what is no pattern
	}
	base := m.newState()
	defer func() { m.states = m.states[:base] }()
	for _, p := range patterns {
		m.addPattern(base, p, maskSelf)
	}
	visited := map[string]bool{}
	points := []point{{states: m.close([]int32{0, base}), from: -1}}
	for at := 0; at < len(points); at++ {
		p := points[at]
		lists, sure := m.lists(p.states)
		if lists&maskSelf != 0 && p.place.ends() && wanted(lists&^maskSelf) {
			return m.example(points, at), true, true
		}
		if settled != nil && settled(sure&^maskSelf) {
			continue
		}
		for _, r := range m.symbols(p, base) {
			where := p.place.next(r)
			if where == nowhere {
				continue
			}
			if m.budget -= len(p.states) + 8; m.budget < 0 {
				return "", false, false
			}
			states := m.step(p.states, r)
			if len(states) == 0 || states[len(states)-1] < base {
				continue // self has nothing left
			}
			key := stateKey(states, where)
			if visited[key] {
				continue
			}
			visited[key] = true
			points = append(points, point{states: states, place: where, from: at, symbol: r})
		}
	}
	return "", false, true
}

// lists returns the tags of the patterns that end in states, and the tags that every continuation keeps.
func (m *automaton) lists(states []int32) (lists, sure mask) {
	for _, s := range states {
		lists |= m.states[s].tag
		sure |= m.states[s].sure
	}
	return lists, sure
}

// symbols are the characters after which p can lead to different places and self, whose states are those from base on, still
// matches. A character that is not among them does what symbolOther does.
func (m *automaton) symbols(p point, base int32) []rune {
	symbols := make([]rune, 0, 16)
	add := func(states []int32) {
		for _, s := range states {
			for _, edge := range m.states[s].chars {
				if !slices.Contains(symbols, edge.r) {
					symbols = append(symbols, edge.r)
				}
			}
		}
	}
	first, _ := slices.BinarySearch(p.states, base)
	self := p.states[first:]
	wild, slash := false, false
	for _, s := range self {
		wild = wild || m.states[s].any != none || m.states[s].loop != loopNone
		slash = slash || m.states[s].inner != none
	}
	if !wild {
		add(self)
		if slash && !slices.Contains(symbols, symbolSlash) {
			symbols = append(symbols, symbolSlash)
		}
		return symbols
	}
	symbols = append(symbols, symbolOther, symbolSlash)
	if p.place == atSlash || p.place == inDot {
		symbols = append(symbols, '.')
	}
	add(p.states)
	return symbols
}

// step is the closed set of states after r.
func (m *automaton) step(states []int32, r rune) []int32 {
	var next []int32
	inName := r != symbolSlash && r != symbolHome
	for _, s := range states {
		from := &m.states[s]
		for _, edge := range from.chars {
			if edge.r == r {
				next = append(next, edge.to)
			}
		}
		if from.any != none && inName {
			next = append(next, from.any)
		}
		if from.inner != none && r == symbolSlash {
			next = append(next, from.inner)
		}
		if (from.loop == loopName && inName) || (from.loop == loopAll && r != symbolHome) {
			next = append(next, s)
		}
	}
	return m.close(next)
}

// close adds the states that are reached without taking a character, sorts, and removes duplicates.
func (m *automaton) close(states []int32) []int32 {
	for i := 0; i < len(states); i++ {
		from := &m.states[states[i]]
		if from.star != none {
			states = append(states, from.star)
		}
		if from.after != none {
			states = append(states, from.after)
		}
	}
	slices.Sort(states)
	return slices.Compact(states)
}

func stateKey(states []int32, where place) string {
	key := make([]byte, 1, 1+4*len(states))
	key[0] = byte(where)
	for _, s := range states {
		key = binary.LittleEndian.AppendUint32(key, uint32(s))
	}
	return string(key)
}

// example spells the path that led to a point. A character that no pattern names is written as x, or as the first letter
// that no pattern has.
func (m *automaton) example(points []point, at int) string {
	other := m.unusedCharacter()
	var reversed []rune
	for ; points[at].from >= 0; at = points[at].from {
		switch r := points[at].symbol; r {
		case symbolOther:
			reversed = append(reversed, other)
		case symbolHome:
			reversed = append(reversed, '~')
		default:
			reversed = append(reversed, r)
		}
	}
	if len(reversed) == 0 {
		return "/"
	}
	slices.Reverse(reversed)
	return string(reversed)
}

func (m *automaton) unusedCharacter() rune {
	used := map[rune]bool{}
	for i := range m.states {
		for _, edge := range m.states[i].chars {
			used[edge.r] = true
		}
	}
	for r := 'x'; r <= 'z'; r++ {
		if !used[r] {
			return r
		}
	}
	for r := 'a'; ; r++ {
		if !used[r] && utf8.ValidRune(r) {
			return r
		}
	}
}
