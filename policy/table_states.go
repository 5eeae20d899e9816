package policy

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"
)

// The states of a table are sets of states of the patterns' automaton, which reads characters; a table reads bytes. A state
// therefore also holds the bytes of a character that has begun. A byte that turns out to begin no character is one
// character for itself, as it is for matchGlob.

// tableState is one state before it is packed.
type tableState struct {
	set   []int32 // states of the patterns that can still make a difference
	sure  mask    // lists that every path which goes on from here is in
	rule  uint32  // of sure: one more than an index of rules
	place place
	root  bool    // after the first slash: the path is the root folder
	begun partial // bytes of a character that is not complete

	other   int32 // where every byte leads that is not in edges
	edges   []byteEdge
	outcome uint32
}

type byteEdge struct {
	b  byte
	to int32
}

// partial is the beginning of a character of several bytes (The Unicode Standard, table 3-7).
type partial struct {
	bytes  string // as read, where a pattern has a character that begins so; otherwise empty
	count  uint8  // bytes read; 0: no character has begun
	need   uint8  // bytes that are missing
	lo, hi byte   // what the next one lies between
}

// Indexes of the first states.
const (
	stateRefused int32 = iota // no clean path from here is in a list
	stateUnclean              // no path from here is clean
	stateStart
)

type tableBuilder struct {
	nfa    *automaton
	rules  []string
	rule   map[int32]uint32 // of end states: one more than the index of their first rule of deny, or of require_approval
	reach  []mask           // of each pattern state: the tags that it can lead to
	states []tableState
	index  map[string]int32
	key    []byte
}

// add puts one rule of list l into the patterns' automaton.
func (b *tableBuilder) add(text string, l list) error {
	patterns, f := parsePattern(text)
	if f != nil {
		return fmt.Errorf("compile file rules: %q: %s", text, f.Message)
	}
	if l == listDeny || l == listApproval {
		b.rules = append(b.rules, text)
	}
	for _, p := range patterns {
		if p.home {
			return fmt.Errorf("compile file rules: %q: ~ is not expanded", text)
		}
		end := b.nfa.addPattern(0, p, l.bit())
		if _, ok := b.rule[end]; !ok && len(b.rules) > 0 {
			b.rule[end] = uint32(len(b.rules))
		}
	}
	return nil
}

// build makes all states that paths can reach.
func (b *tableBuilder) build() error {
	b.reach = b.nfa.reaches()
	b.states = []tableState{
		{place: inName, outcome: cellOwn},
		{place: nowhere, outcome: cellOwn, other: stateUnclean},
	}
	start := tableState{set: b.nfa.close([]int32{0}), place: atStart}
	root := tableState{set: b.nfa.step(start.set, symbolSlash), place: atSlash, root: true}
	b.states = append(b.states, start)
	first := b.intern(root)
	s := &b.states[stateStart]
	s.other, s.edges, s.outcome = stateUnclean, []byteEdge{{'/', first}}, cellOwn
	for at := stateStart + 1; at < int32(len(b.states)); at++ {
		if len(b.states) > maxTableStates {
			return beyondTable(fmt.Sprintf("more than %d states", maxTableStates))
		}
		if b.nfa.budget < 0 {
			return beyondTable("too much work")
		}
		b.expand(at)
	}
	return nil
}

// intern returns the index of s, which it makes when it is new. It takes off s what can make no difference any more.
func (b *tableBuilder) intern(s tableState) int32 {
	if s.place == nowhere {
		return stateUnclean
	}
	b.settle(&s)
	if len(s.set) == 0 && s.sure == 0 && !s.root {
		return stateRefused
	}
	key := b.key[:0]
	key = append(key, byte(s.place), byte(s.sure), s.begun.count, s.begun.need, s.begun.lo, s.begun.hi, byte(len(s.begun.bytes)))
	if s.root {
		key[0] |= 0x80
	}
	key = append(key, s.begun.bytes...)
	key = binary.LittleEndian.AppendUint32(key, s.rule)
	for _, n := range s.set {
		key = binary.LittleEndian.AppendUint32(key, uint32(n))
	}
	b.key = key
	if at, ok := b.index[string(key)]; ok {
		return at
	}
	name := string(key)
	s.outcome = b.outcomeOf(&s) // which may make states
	at := int32(len(b.states))
	b.index[name] = at
	b.states = append(b.states, s)
	return at
}

// settle moves the lists that are sure out of the set, and drops the patterns that could only lead to them. Under a sure deny,
// nothing else matters.
func (b *tableBuilder) settle(s *tableState) {
	rule := uint32(0)
	for _, n := range s.set {
		sure := b.nfa.states[n].sure
		s.sure |= sure
		if sure&(listDeny.bit()|listApproval.bit()) != 0 {
			// The end behind a ** that ends a pattern is where the rule stands.
			if r := b.rule[b.nfa.states[n].after]; r != 0 && (rule == 0 || r < rule) {
				rule = r
			}
		}
	}
	if rule != 0 && (s.rule == 0 || rule < s.rule) {
		s.rule = rule
	}
	if s.sure&listDeny.bit() != 0 {
		s.sure, s.set = listDeny.bit(), nil
		return
	}
	if s.sure == 0 {
		return
	}
	kept := s.set[:0:0]
	for _, n := range s.set {
		if b.reach[n]&^s.sure != 0 {
			kept = append(kept, n)
		}
	}
	s.set = kept
}

// outcomeOf is what a path is that ends in s.
func (b *tableBuilder) outcomeOf(s *tableState) uint32 {
	switch {
	case s.begun.count > 0:
		return b.states[b.broken(s)].outcome
	case s.root:
		return b.listed(b.nfa.close([]int32{0}), 0, 0)
	case !s.place.ends():
		return cellOwn
	}
	return b.listed(s.set, s.sure, s.rule)
}

// listed is the outcome of the patterns that end in set, and of the lists that are sure. Deny leaves the others out, and exec
// brings read, so that equal verdicts are equal outcomes.
func (b *tableBuilder) listed(set []int32, lists mask, rule uint32) uint32 {
	for _, n := range set {
		tag := b.nfa.states[n].tag
		lists |= tag
		if r := b.rule[n]; tag&(listDeny.bit()|listApproval.bit()) != 0 && (rule == 0 || r < rule) {
			rule = r
		}
	}
	switch {
	case lists&listDeny.bit() != 0:
		lists = listDeny.bit()
	case lists&listExec.bit() != 0:
		lists |= listRead.bit()
	}
	return cellOwn | rule<<outcomeRuleShift | uint32(lists)
}

// expand makes the edges of a state.
func (b *tableBuilder) expand(at int32) {
	s := b.states[at]
	if s.begun.count > 0 {
		b.expandBegun(at, s)
		return
	}
	other := b.after(&s, symbolOther)
	edges := make([]byteEdge, 0, 4)
	wide := false // a character of several bytes differs from other
	seen := func(c byte) bool { return slices.ContainsFunc(edges, func(e byteEdge) bool { return e.b == c }) }
	add := func(c byte) {
		if !seen(c) {
			edges = append(edges, byteEdge{c, b.after(&s, rune(c))})
		}
	}
	add('/')
	if s.place == atSlash || s.place == inDot {
		add('.')
	}
	for _, n := range s.set {
		for _, edge := range b.nfa.states[n].chars {
			if edge.r >= utf8.RuneSelf {
				wide = true
			} else {
				add(byte(edge.r))
			}
		}
	}
	if wide || !b.stays(other) {
		for c := 0x80; c <= 0xff; c++ {
			edges = append(edges, byteEdge{byte(c), b.begin(&s, byte(c), other)})
		}
	}
	b.setEdges(at, other, edges)
}

// stays reports whether one character that no pattern names leads to the same state as several: then it does not matter how
// many characters some bytes are.
func (b *tableBuilder) stays(at int32) bool {
	s := b.states[at]
	return at == stateRefused || at == stateUnclean || b.after(&s, symbolOther) == at
}

// setEdges stores the edges that do not lead where other does.
func (b *tableBuilder) setEdges(at, other int32, edges []byteEdge) {
	edges = slices.DeleteFunc(edges, func(e byteEdge) bool { return e.to == other })
	slices.SortFunc(edges, func(x, y byteEdge) int { return int(x.b) - int(y.b) })
	b.states[at].other, b.states[at].edges = other, edges
}

// after is the state that follows s after one character.
func (b *tableBuilder) after(s *tableState, r rune) int32 {
	b.nfa.budget -= len(s.set) + 1
	where := s.place.next(r)
	if where == nowhere {
		return stateUnclean
	}
	return b.intern(tableState{set: b.nfa.step(s.set, r), sure: s.sure, rule: s.rule, place: where})
}

// begin is the state after a byte that is not ASCII: a character begins, or it is no character and stands for itself.
func (b *tableBuilder) begin(s *tableState, c byte, other int32) int32 {
	begun := partial{count: 1, lo: 0x80, hi: 0xbf}
	switch {
	case c >= 0xc2 && c <= 0xdf:
		begun.need = 1
	case c >= 0xe0 && c <= 0xef:
		begun.need = 2
	case c >= 0xf0 && c <= 0xf4:
		begun.need = 3
	default:
		return other
	}
	switch c {
	case 0xe0:
		begun.lo = 0xa0
	case 0xed:
		begun.hi = 0x9f
	case 0xf0:
		begun.lo = 0x90
	case 0xf4:
		begun.hi = 0x8f
	}
	return b.interned(s, begun, string([]byte{c}))
}

// interned is the state s with a character that has begun with bytes; empty: with bytes that no pattern has.
func (b *tableBuilder) interned(s *tableState, begun partial, bytes string) int32 {
	if bytes != "" && b.named(s, bytes) {
		begun.bytes = bytes
	}
	return b.intern(tableState{set: s.set, sure: s.sure, rule: s.rule, place: s.place, begun: begun})
}

// named reports whether a pattern goes on with a character that begins with bytes.
func (b *tableBuilder) named(s *tableState, bytes string) bool {
	for _, n := range s.set {
		for _, edge := range b.nfa.states[n].chars {
			if edge.r >= utf8.RuneSelf && len(string(edge.r)) >= len(bytes) && string(edge.r)[:len(bytes)] == bytes {
				return true
			}
		}
	}
	return false
}

// expandBegun makes the edges of a state in which a character has begun.
func (b *tableBuilder) expandBegun(at int32, s tableState) {
	whole := tableState{set: s.set, sure: s.sure, rule: s.rule, place: s.place}
	broken := b.broken(&s)
	if b.states[broken].edges == nil && broken > at {
		b.expand(broken)
	}
	from := b.states[broken]
	edges := make([]byteEdge, 0, 64+len(from.edges))
	for c := int(s.begun.lo); c <= int(s.begun.hi); c++ {
		bytes := ""
		if s.begun.bytes != "" {
			bytes = s.begun.bytes + string([]byte{byte(c)})
		}
		if s.begun.need > 1 {
			next := partial{count: s.begun.count + 1, need: s.begun.need - 1, lo: 0x80, hi: 0xbf}
			edges = append(edges, byteEdge{byte(c), b.interned(&whole, next, bytes)})
			continue
		}
		r := symbolOther
		if bytes != "" {
			r, _ = utf8.DecodeRuneInString(bytes)
		}
		edges = append(edges, byteEdge{byte(c), b.after(&whole, r)})
	}
	for _, e := range from.edges {
		if e.b < s.begun.lo || e.b > s.begun.hi {
			edges = append(edges, e)
		}
	}
	b.setEdges(at, from.other, edges)
}

// broken is the state after the bytes that have begun a character, each taken for itself.
func (b *tableBuilder) broken(s *tableState) int32 {
	at := b.intern(tableState{set: s.set, sure: s.sure, rule: s.rule, place: s.place})
	for range s.begun.count {
		one := b.states[at]
		at = b.after(&one, symbolOther)
	}
	return at
}
