package strictyaml

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

func (r *Reader) reportAt(at Place, n *Node, f *Fault) {
	r.positions[at] = position{n.Line, n.Column}
	r.Report(at, f)
}

// visit follows an alias and counts what is visited: an alias counts each time it is used.
func (r *Reader) visit(at Place, n *Node) (*Node, bool) {
	if *r.nodes++; *r.nodes > maxNodes {
		if *r.nodes == maxNodes+1 {
			r.reportAt(at, n, Faultf("use fewer aliases", "aliases make more than %d values of this file", maxNodes))
		}
		return nil, false
	}
	r.positions[at] = position{n.Line, n.Column}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n, true
}

// Fields decodes a mapping whose keys are known.
func (r *Reader) Fields(at Place, n *Node, fields map[string]func(Place, *Node)) {
	r.Mapping(at, n, func(key string, at Place, value *Node) {
		if decode, known := fields[key]; known {
			decode(at, value)
			return
		}
		fix := "known keys: " + strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
		if near := Nearest(strings.ToLower(key), slices.Sorted(maps.Keys(fields))); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
		}
		r.Report(at, Faultf(fix, "unknown key %q", Shorten(key)))
	})
}

// Mapping calls each for every key of n with the key's Place. Own keys win over merged ones (<<), earlier merges over later ones.
func (r *Reader) Mapping(at Place, n *Node, each func(key string, at Place, value *Node)) {
	m := mappingReader{reader: r, each: each, own: map[string]bool{}}
	m.read(at, n, 0)
}

type mappingReader struct {
	reader *Reader
	each   func(key string, at Place, value *Node)
	own    map[string]bool // keys that were decoded
}

func (m *mappingReader) read(at Place, n *Node, depth int) {
	r := m.reader
	n, ok := r.visit(at, n)
	if !ok {
		return
	}
	if depth > maxDepth {
		r.reportAt(at, n, Faultf("write the keys out", "merge keys nest deeper than %d", maxDepth))
		return
	}
	if n.Kind != yaml.MappingNode {
		r.Report(at, Faultf("write `key: value` lines; {} for an empty section", "%s where keys are wanted", describe(n)))
		return
	}
	var merges []*Node
	here := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merges = append(merges, value)
			continue
		}
		m.entry(at, key, value, here)
	}
	for _, merge := range merges {
		m.merge(at, merge, depth)
	}
}

func (m *mappingReader) entry(at Place, key, value *Node, here map[string]int) {
	r := m.reader
	if key.Kind == yaml.AliasNode {
		key = key.Alias
	}
	if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
		r.reportAt(Place(fmt.Sprintf("%s@%d:%d", at, key.Line, key.Column)), key, Faultf("keys are words", "%s as a key", describe(key)))
		return
	}
	if line, twice := here[key.Value]; twice {
		where := Place(fmt.Sprintf("%s@%d:%d", at, key.Line, key.Column))
		r.reportAt(where, key, Faultf("keep one of them", "key %q stands twice, first in line %d", Shorten(key.Value), line))
		return
	}
	here[key.Value] = key.Line
	if m.own[key.Value] {
		return // a merged key that the mapping itself has
	}
	m.own[key.Value] = true
	child := Place(key.Value)
	if at != "" {
		child = at + "." + child
	}
	r.positions[child] = position{key.Line, key.Column}
	r.positions[child.Key()] = position{key.Line, key.Column}
	m.each(key.Value, child, value)
}

// merge reads the value of <<: a mapping, or a list of mappings.
func (m *mappingReader) merge(at Place, n *Node, depth int) {
	target := n
	if target.Kind == yaml.AliasNode {
		target = target.Alias
	}
	if target.Kind != yaml.SequenceNode {
		m.read(at, n, depth+1)
		return
	}
	for _, part := range target.Content {
		m.read(at, part, depth+1)
	}
}

// Items says what else than words a list of texts takes.
type Items struct {
	Numbers bool   // whole numbers, as they are written
	Null    string // what to write where YAML takes the text for nothing; empty: as for every other kind
	// Mapping reads an item that is a mapping and returns the text that it stands for, or its mistake; nil: no item can be one.
	Mapping func(at Place, n *Node) (text string, f *Fault)
}

// List decodes a list of texts, which may be empty, and appends them to into.
func (r *Reader) List(at Place, n *Node, into *[]string, takes Items) {
	n, ok := r.visit(at, n)
	if !ok {
		return
	}
	if n.Kind != yaml.SequenceNode {
		fix := "write a list: [a, b], or one `- a` line for each"
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
			fix = fmt.Sprintf("write a list: [%q]", Shorten(n.Value))
		} else if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
			fix = "write [] for an empty list, or leave the key out"
		}
		r.Report(at, Faultf(fix, "%s where a list is wanted", describe(n)))
		return
	}
	for _, item := range n.Content {
		r.item(at, item, into, takes, 0)
		if *r.nodes > maxNodes {
			return
		}
	}
}

// item adds one text to the list at. A list inside a list, which an alias to a shared list makes, is laid flat.
func (r *Reader) item(list Place, n *Node, into *[]string, takes Items, depth int) {
	at := list.Item(len(*into))
	n, ok := r.visit(at, n)
	if !ok {
		return
	}
	isNumber := takes.Numbers && n.ShortTag() == "!!int"
	switch {
	case n.Kind == yaml.ScalarNode && (n.ShortTag() == "!!str" || isNumber):
		*into = append(*into, n.Value)
	case n.Kind == yaml.MappingNode && takes.Mapping != nil:
		text, f := takes.Mapping(at, n)
		if f != nil {
			r.fail(at, n, f)
			return
		}
		*into = append(*into, text)
	case n.Kind == yaml.SequenceNode && depth < maxDepth:
		for _, inner := range n.Content {
			r.item(list, inner, into, takes, depth+1)
			if *r.nodes > maxNodes {
				return
			}
		}
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" && takes.Null != "":
		r.fail(at, n, Faultf(takes.Null, "nothing where text is wanted"))
	default:
		r.fail(at, n, Faultf("put quotes around text that YAML takes for something else", "%s where text is wanted", describe(n)))
	}
}

// fail reports a problem with an item that gets no place in its list, so that its index may be used again.
func (r *Reader) fail(at Place, n *Node, f *Fault) {
	where := r.positions[at]
	own := Place(fmt.Sprintf("%s@%d:%d", at, where.line, where.column))
	r.positions[own] = where
	r.Report(own, f)
}

// Text decodes a text that is not empty and says whether it was one.
func (r *Reader) Text(at Place, n *Node, into *string) bool {
	n, ok := r.visit(at, n)
	if !ok {
		return false
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || n.Value == "" {
		r.Report(at, Faultf("write a word, in quotes if YAML takes it for something else", "%s where text is wanted", describe(n)))
		return false
	}
	*into = n.Value
	return true
}

// Number decodes a whole number that is not negative.
func (r *Reader) Number(at Place, n *Node, into **uint64) {
	n, ok := r.visit(at, n)
	if !ok {
		return
	}
	value, err := strconv.ParseUint(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil || strconv.FormatUint(value, 10) != n.Value {
		r.Report(at, Faultf("write a whole number without unit, as in 1024", "%s where a number is wanted", describe(n)))
		return
	}
	*into = &value
}

// Plain returns a number or a word as it is written, for values with a form of their own, such as amounts of money; ok: it was one. want says
// what is wanted and fix how it is written.
func (r *Reader) Plain(at Place, n *Node, want, fix string) (text string, ok bool) {
	n, ok = r.visit(at, n)
	if !ok {
		return "", false
	}
	switch tag := n.ShortTag(); {
	case n.Kind == yaml.ScalarNode && n.Value != "" && (tag == "!!str" || tag == "!!int" || tag == "!!float"):
		return n.Value, true
	}
	r.Report(at, Faultf(fix, "%s where %s is wanted", describe(n), want))
	return "", false
}

// Truth decodes true or false.
func (r *Reader) Truth(at Place, n *Node, into *bool) {
	n, ok := r.visit(at, n)
	if !ok {
		return
	}
	value, err := strconv.ParseBool(n.Value)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || err != nil {
		r.Report(at, Faultf("write true or false", "%s where true or false is wanted", describe(n)))
		return
	}
	*into = value
}

// Each calls each for every item of a list.
func (r *Reader) Each(at Place, n *Node, each func(at Place, item *Node)) {
	n, ok := r.visit(at, n)
	if !ok {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.Report(at, Faultf("write a list: one `- ` for each item", "%s where a list is wanted", describe(n)))
		return
	}
	for i, item := range n.Content {
		each(at.Item(i), item)
	}
}

// describe names what a node is, for messages.
func describe(n *Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!str":
		return fmt.Sprintf("text %q", Shorten(n.Value))
	case "!!int", "!!float":
		return "number " + Shorten(n.Value)
	case "!!bool":
		return "truth value " + Shorten(n.Value)
	}
	return "a value of type " + Shorten(n.ShortTag())
}
