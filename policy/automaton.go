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

// opcode is what a state of the automaton takes. A state that is not a match goes to the next one in line.
type opcode uint8

const (
	opChar  opcode = iota // the character r
	opAny                 // one character but the slash
	opStar                // characters but the slash: stays, or goes on without taking one
	opEnter               // before **: a slash leads inside, or two states on without taking anything
	opInner               // inside **: takes everything, or goes on without taking anything
	opMatch               // the end of a pattern
)

type op struct {
	code opcode
	r    rune
	tag  mask // of opMatch
	sure mask // of a state after which every continuation matches
}

// automaton is the union of patterns. It is built by one goroutine and then only read, but for extend.
type automaton struct {
	ops    []op
	starts []int32
	budget int
}

// maskSelf marks the patterns that a search walks along.
const maskSelf mask = 1 << 15

// add puts the patterns of text into the automaton under tag. Text that is no pattern adds nothing.
func (m *automaton) add(text string, tag mask) {
	patterns, f := parsePattern(text)
	if f != nil {
		return
	}
	for _, p := range patterns {
		m.addPattern(p, tag)
		if !p.home && len(p.components) == 1 && p.components[0].deep {
			p.home = true // /** holds every home folder too
			m.addPattern(p, tag)
		}
	}
}

func (m *automaton) addPattern(p pattern, tag mask) {
	m.starts = append(m.starts, int32(len(m.ops)))
	if p.home {
		m.ops = append(m.ops, op{code: opChar, r: symbolHome})
	}
	for i, c := range p.components {
		if c.deep {
			sure := mask(0)
			if i == len(p.components)-1 {
				sure = tag
			}
			m.ops = append(m.ops, op{code: opEnter}, op{code: opInner, sure: sure})
			continue
		}
		m.ops = append(m.ops, op{code: opChar, r: symbolSlash})
		m.addLiteral(c.literal)
		for _, g := range c.glob {
			switch g.kind {
			case pieceOne:
				m.ops = append(m.ops, op{code: opAny})
			case pieceStar:
				m.ops = append(m.ops, op{code: opStar})
			default:
				m.addLiteral(g.literal)
			}
		}
	}
	m.ops = append(m.ops, op{code: opMatch, tag: tag})
}

func (m *automaton) addLiteral(text string) {
	for _, r := range text {
		m.ops = append(m.ops, op{code: opChar, r: r})
	}
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

// search walks all paths that match self. It returns a path whose set of lists is wanted, without maskSelf in it. Where the
// lists of sure already hold whatever follows, settled says that no path from there on is wanted. ok is false when the budget ran out:
// then nothing is known.
func (m *automaton) search(self string, wanted, settled func(mask) bool) (example string, found, ok bool) {
	base, baseStarts := len(m.ops), len(m.starts)
	m.add(self, maskSelf)
	defer func() { m.ops, m.starts = m.ops[:base], m.starts[:baseStarts] }()

	visited := map[string]bool{}
	points := []point{{states: m.close(slices.Clone(m.starts)), from: -1}}
	for at := 0; at < len(points); at++ {
		p := points[at]
		lists, sure := m.lists(p.states)
		if lists&maskSelf != 0 && p.place.ends() && wanted(lists&^maskSelf) {
			return m.example(points, at), true, true
		}
		if settled != nil && settled(sure&^maskSelf) {
			continue
		}
		for _, r := range m.symbols(p) {
			where := p.place.next(r)
			if where == nowhere || !m.selfTakes(p.states, int32(base), r) {
				continue
			}
			if m.budget -= len(p.states) + 8; m.budget < 0 {
				return "", false, false
			}
			states := m.step(p.states, r)
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
		lists |= m.ops[s].tag
		sure |= m.ops[s].sure
	}
	return lists, sure
}

// symbols are the characters that lead to different places from p; all others do what symbolOther does.
func (m *automaton) symbols(p point) []rune {
	symbols := []rune{symbolOther, symbolSlash}
	if p.place == atSlash || p.place == inDot {
		symbols = append(symbols, '.')
	}
	for _, s := range p.states {
		if o := m.ops[s]; o.code == opChar && !slices.Contains(symbols, o.r) {
			symbols = append(symbols, o.r)
		}
	}
	return symbols
}

// takes reports whether a state with this op goes on at r, and how many states further.
func (o op) takes(r rune) (ahead int32, ok bool) {
	switch o.code {
	case opChar:
		return 1, o.r == r
	case opAny:
		return 1, r != symbolSlash && r != symbolHome
	case opStar:
		return 0, r != symbolSlash && r != symbolHome
	case opEnter:
		return 1, r == symbolSlash
	case opInner:
		return 0, r != symbolHome
	}
	return 0, false
}

// selfTakes reports whether one of the states of self, which are those from base on, goes on at r.
func (m *automaton) selfTakes(states []int32, base int32, r rune) bool {
	for i := len(states) - 1; i >= 0 && states[i] >= base; i-- {
		if _, ok := m.ops[states[i]].takes(r); ok {
			return true
		}
	}
	return false
}

// step is the closed set of states after r.
func (m *automaton) step(states []int32, r rune) []int32 {
	var next []int32
	for _, s := range states {
		if ahead, ok := m.ops[s].takes(r); ok {
			next = append(next, s+ahead)
		}
	}
	return m.close(next)
}

// close adds the states that are reached without taking a character, sorts, and removes duplicates.
func (m *automaton) close(states []int32) []int32 {
	for i := 0; i < len(states); i++ {
		switch s := states[i]; m.ops[s].code {
		case opStar, opInner:
			states = append(states, s+1)
		case opEnter:
			states = append(states, s+2)
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
	for _, o := range m.ops {
		if o.code == opChar {
			used[o.r] = true
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
