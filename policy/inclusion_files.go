package policy

import (
	"slices"
	"strings"
)

// In a comparison the lists of the outer policy have the bits of list, those of the inner policy the same bits shifted.
const (
	innerShift             = listCount
	maskLists         mask = 1<<listCount - 1
	maskCarried       mask = 1 << (2 * listCount) // approvals that were carried down
	tooIntricate           = "too intricate to compare with the policy above: use fewer wildcards"
	allAccess              = Read | Write | Exec
	outerDeny              = mask(1) << listDeny
	innerDeny              = mask(1) << (listDeny + innerShift)
	eitherDeny             = outerDeny | innerDeny
	outerApproval          = mask(1) << listApproval
	innerApproval          = mask(1) << (listApproval + innerShift)
	innerNamed             = maskNamed << innerShift
	carriedOrAsked         = maskCarried | innerApproval
	unexpandedMixture      = "rules with and without ~ can only be compared when ~ is expanded, because of require_approval"
)

// filesComparison compares two filesystem sections.
type filesComparison struct {
	outer, inner *Filesystem
	both         *automaton
	beyond       []Beyond
}

func narrowFilesystem(outer, inner *Filesystem) (*Filesystem, []Beyond) {
	switch {
	case inner == nil:
		return outer, nil
	case outer == nil:
		return inner, nil
	}
	c := &filesComparison{outer: outer, inner: inner, both: newAutomaton()}
	if rule, mixed := mixesHome(outer, inner); mixed {
		return nil, []Beyond{{"filesystem", rule, unexpandedMixture}}
	}
	for l := range listCount {
		for _, text := range outer.patterns(l) {
			c.both.add(text, l.bit())
		}
		for _, text := range inner.patterns(l) {
			c.both.add(text, l.bit()<<innerShift)
		}
	}
	for l := range listCount {
		if l == listDeny {
			continue // a deny rule only takes away
		}
		for _, text := range inner.patterns(l) {
			c.check(l, text)
		}
	}
	if inner.Static && !outer.Static {
		c.beyond = append(c.beyond, Beyond{"filesystem.static", "true", "the policy above wants each refusal recorded"})
	}
	carried := c.carryApprovals()
	exec, hashes := c.carryHashes()
	return &Filesystem{
		Read:            inner.Read,
		Write:           inner.Write,
		Exec:            exec,
		Deny:            sortedUnion(inner.Deny, outer.Deny),
		RequireApproval: sortedUnion(inner.RequireApproval, carried),
		Static:          inner.Static,
		Hashes:          hashes,
	}, c.beyond
}

// mixesHome reports whether a comparison before ~ is expanded could come out otherwise than after it. Only approvals depend on
// which other rules name the same path.
func mixesHome(sections ...*Filesystem) (rule string, mixed bool) {
	home, absolute, approvals := "", false, false
	for _, f := range sections {
		approvals = approvals || len(f.RequireApproval) > 0
		for l := range listCount {
			for _, text := range f.patterns(l) {
				if strings.HasPrefix(text, "~") {
					home = text
				} else if text != "/**" {
					absolute = true
				}
			}
		}
	}
	return home, approvals && absolute && home != ""
}

func (c *filesComparison) report(l list, item, reason string) {
	c.beyond = append(c.beyond, Beyond{"filesystem." + l.String(), item, reason})
}

// check reports the pattern text of the inner list l when outer does not grant all of it.
func (c *filesComparison) check(l list, text string) {
	if len(c.outer.Deny) > 0 {
		denied := func(m mask) bool { return m&outerDeny != 0 }
		_, found, ok := c.both.search(text, func(m mask) bool { return !denied(m) }, denied)
		if !ok {
			c.report(l, text, tooIntricate)
			return
		}
		if !found {
			c.report(l, text, "denied by the policy above")
			return
		}
	}
	refused := func(m mask) bool { return !granted(l, m) }
	settled := func(sure mask) bool { return surelyGranted(l, sure) }
	example, found, ok := c.both.search(text, refused, settled)
	switch {
	case !ok:
		c.report(l, text, tooIntricate)
	case found && example == text:
		c.report(l, text, "not granted by the policy above")
	case found:
		c.report(l, text, "not granted by the policy above, for example "+example)
	}
}

// wantedAccess is what a pattern in an allow list asks for.
func wantedAccess(l list) Access {
	switch l {
	case listRead:
		return Read
	case listWrite:
		return Write
	case listExec:
		return Exec
	}
	return allAccess
}

// granted reports whether a path with the lists of m, named by the inner list l, gets no wider verdict than outer gives, once
// denials and approvals are carried down.
func granted(l list, m mask) bool {
	outer := m & maskLists
	switch {
	case m&eitherDeny != 0:
		return true
	case l == listApproval && m&innerNamed != 0:
		return true // here require_approval only takes away
	}
	return outer.verdict(wantedAccess(l)) != VerdictBlock
}

// surelyGranted reports whether granted holds for every mask with at least these bits.
func surelyGranted(l list, sure mask) bool {
	return sure&eitherDeny != 0 || (l == listApproval && sure&innerNamed != 0) || (sure & maskLists).grants(wantedAccess(l))
}

// carryApprovals returns the patterns to add to the inner require_approval list so that no path which outer asks about is
// granted without asking. An outer rule must not be added as it is when it reaches paths that inner does not name at all:
// there it would ask where inner refuses.
func (c *filesComparison) carryApprovals() []string {
	if len(c.outer.RequireApproval) == 0 {
		return nil
	}
	var carried []string
	carry := func(text string) {
		carried = append(carried, text)
		c.both.add(text, maskCarried)
	}
	for _, text := range c.outer.RequireApproval {
		touches, ok1 := c.reaches(text, func(m mask) bool { return m&innerNamed != 0 })
		strays, ok2 := c.reaches(text, func(m mask) bool { return m&(innerNamed|innerApproval) == 0 })
		if ok1 && ok2 && touches && !strays {
			carry(text)
		}
	}
	for _, l := range []list{listRead, listWrite, listExec} {
		for _, text := range c.inner.patterns(l) {
			uncovered, ok := c.reaches(text, func(m mask) bool { return m&outerApproval != 0 && m&carriedOrAsked == 0 })
			if ok && !uncovered {
				continue
			}
			strays, ok2 := c.reaches(text, func(m mask) bool { return m&outerApproval == 0 })
			switch {
			case !ok || !ok2:
				c.report(l, text, tooIntricate)
			case !strays:
				carry(text)
			default:
				c.report(l, text, "the policy above asks a person for a part of it: write that part as a rule of its own")
			}
		}
	}
	return carried
}

// reaches reports whether a path of text that nothing denies is wanted.
func (c *filesComparison) reaches(text string, wanted func(mask) bool) (found, ok bool) {
	_, found, ok = c.both.search(text,
		func(m mask) bool { return m&eitherDeny == 0 && wanted(m) },
		func(sure mask) bool { return sure&eitherDeny != 0 })
	return found, ok
}

// sortedUnion returns the elements of both lists, sorted, each once; nil when there are none.
func sortedUnion(a, b []string) []string {
	union := slices.Concat(a, b)
	if len(union) == 0 {
		return nil
	}
	slices.Sort(union)
	return slices.Compact(union)
}

// pathsIncluded lists the patterns of inner that reach a path which no pattern of outer matches.
func pathsIncluded(section string, inner, outer []string) []Beyond {
	var beyond []Beyond
	m := newAutomaton()
	for _, text := range outer {
		m.add(text, listRead.bit())
	}
	for _, text := range inner {
		matched := func(lists mask) bool { return lists&listRead.bit() != 0 }
		_, found, ok := m.search(text, func(lists mask) bool { return !matched(lists) }, matched)
		switch {
		case !ok:
			beyond = append(beyond, Beyond{section, text, tooIntricate})
		case found:
			beyond = append(beyond, Beyond{section, text, "not granted by the policy above"})
		}
	}
	return beyond
}
