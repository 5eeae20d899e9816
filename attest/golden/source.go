package golden

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// maxDepth bounds the nesting of YAML; a list needs five levels.
const maxDepth = 16

// ParseSource reads the YAML form of a list; name is the file's name for messages. It is strict, and its error has all
// mistakes with their places, one a line; after a mistake of YAML itself only that one is known. Values are hexadecimal, one
// or a list for each PCR; times are RFC 3339. Without times of its own a set has the list's.
func ParseSource(name string, text []byte) (*List, error) {
	d := &decoder{name: name}
	l := d.list(text)
	if len(d.problems) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, errors.Join(d.problems...))
	}
	if err := l.check(); err != nil { // the decoder says the same mistakes with their places
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	return l, nil
}

// decoder gathers what is wrong.
type decoder struct {
	name     string
	problems []error
}

const maxProblems = 50

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	if len(d.problems) == maxProblems {
		d.problems = append(d.problems, fmt.Errorf("%s: more mistakes follow", d.name))
	}
	if len(d.problems) > maxProblems {
		return
	}
	d.problems = append(d.problems, fmt.Errorf("%s:%d:%d: %w", d.name, n.Line, n.Column, fmt.Errorf(format, args...)))
}

func (d *decoder) list(text []byte) *List {
	start := &yaml.Node{Line: 1, Column: 1}
	root, err := load(text)
	if err != nil {
		d.problems = append(d.problems, fmt.Errorf("%s: %w", d.name, err))
		return nil
	}
	if root == nil {
		d.fail(start, "empty: begin one with `raypher attest golden add`")
		return nil
	}
	l := &List{}
	var sets *yaml.Node
	seen := d.fields(root, map[string]func(*yaml.Node){
		"version":    func(n *yaml.Node) { l.Version = d.number(n, "a version from 1") },
		"not_before": func(n *yaml.Node) { l.NotBefore = d.time(n) },
		"not_after":  func(n *yaml.Node) { l.NotAfter = d.time(n) },
		"sets":       func(n *yaml.Node) { sets = n },
	})
	d.need(root, seen, "version", "not_after", "sets")
	if !seen["not_before"] {
		l.NotBefore = time.Unix(0, 0)
	}
	if seen["version"] && l.Version == 0 {
		d.fail(root, "version 0: use a number from 1, larger than the last one")
	}
	if seen["not_after"] && l.NotAfter.Before(l.NotBefore) {
		d.fail(root, "not_after is before not_before")
	}
	if sets == nil {
		return l
	}
	if sets.Kind != yaml.SequenceNode || len(sets.Content) == 0 || len(sets.Content) > MaxSets {
		d.fail(sets, "sets: expected a list of 1 to %d sets", MaxSets)
		return l
	}
	names := map[string]int{}
	for _, n := range sets.Content {
		s := d.set(n, l)
		if line, twice := names[s.Name]; twice && s.Name != "" {
			d.fail(n, "a second set with the name %q, the first is in line %d", s.Name, line)
		}
		names[s.Name] = n.Line
		l.Sets = append(l.Sets, s)
	}
	return l
}

func (d *decoder) set(n *yaml.Node, l *List) *Set {
	s := &Set{NotBefore: l.NotBefore, NotAfter: l.NotAfter}
	var bankNode, pcrs *yaml.Node
	seen := d.fields(n, map[string]func(*yaml.Node){
		"name":       func(n *yaml.Node) { s.Name = d.text(n) },
		"version":    func(n *yaml.Node) { s.Version = d.text(n) },
		"tier":       func(n *yaml.Node) { s.Tier = d.tier(n) },
		"bank":       func(n *yaml.Node) { bankNode = n },
		"not_before": func(n *yaml.Node) { s.NotBefore = d.time(n) },
		"not_after":  func(n *yaml.Node) { s.NotAfter = d.time(n) },
		"pcrs":       func(n *yaml.Node) { pcrs = n },
	})
	d.need(n, seen, "name", "tier", "bank", "pcrs")
	b, known := banks[s.Tier]
	if !known {
		return s // said already; what the rest should be is not known
	}
	if bankNode != nil && bankNode.Value != b.name {
		d.fail(bankNode, "bank %q: PCRs of tier %s are of bank %s", shorten(bankNode.Value), s.Tier, b.name)
	}
	if s.NotAfter.Before(s.NotBefore) {
		d.fail(n, "the set ends before it begins")
	}
	if pcrs != nil {
		s.PCRs = d.registers(pcrs, b)
	}
	return s
}

func (d *decoder) tier(n *yaml.Node) string {
	if _, known := banks[n.Value]; !known || n.Kind != yaml.ScalarNode {
		d.fail(n, "tier %q: use %s", shorten(n.Value), strings.Join(slices.Sorted(maps.Keys(banks)), " or "))
		return ""
	}
	return n.Value
}

func (d *decoder) registers(n *yaml.Node, b bank) []Register {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		d.fail(n, "pcrs: expected lines `7: HEX` or `7: [HEX, HEX]`; without any, every machine matches")
		return nil
	}
	var out []Register
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		index, err := strconv.ParseUint(key.Value, 10, 8)
		if err != nil || index >= b.count {
			d.fail(key, "PCR %q: expected a number from 0 to %d", shorten(key.Value), b.count-1)
			continue
		}
		if slices.ContainsFunc(out, func(r Register) bool { return r.Index == index }) {
			d.fail(key, "PCR %d stands twice: give it a list of values", index)
			continue
		}
		out = append(out, Register{Index: index, Values: d.values(value, b)})
	}
	slices.SortFunc(out, func(x, y Register) int { return int(x.Index) - int(y.Index) })
	return out
}

func (d *decoder) values(n *yaml.Node, b bank) [][]byte {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	if len(nodes) == 0 || len(nodes) > MaxValues {
		d.fail(n, "%d values, expected 1 to %d", len(nodes), MaxValues)
	}
	var out [][]byte
	for _, v := range nodes {
		value, err := hex.DecodeString(v.Value)
		if v.Kind != yaml.ScalarNode || err != nil || len(value) != b.size {
			d.fail(v, "%q: expected %d hexadecimal digits (%s)", shorten(v.Value), 2*b.size, b.name)
			continue
		}
		out = append(out, value)
	}
	return out
}

// fields calls what belongs to each key of a mapping and returns the keys that stand there.
func (d *decoder) fields(n *yaml.Node, known map[string]func(*yaml.Node)) map[string]bool {
	seen := map[string]bool{}
	if n.Kind != yaml.MappingNode {
		d.fail(n, "expected `key: value` lines with the keys %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		return seen
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case !ok || key.Kind != yaml.ScalarNode:
			d.fail(key, "unknown key %q: known are %s", shorten(key.Value), strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		case seen[key.Value]:
			d.fail(key, "key %q stands twice", key.Value)
		default:
			seen[key.Value] = true
			read(value)
		}
	}
	return seen
}

func (d *decoder) need(n *yaml.Node, seen map[string]bool, keys ...string) {
	if n.Kind != yaml.MappingNode {
		return // said already
	}
	for _, key := range keys {
		if !seen[key] {
			d.fail(n, "%s is missing", key)
		}
	}
}

func (d *decoder) number(n *yaml.Node, what string) uint64 {
	v, err := strconv.ParseUint(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || err != nil {
		d.fail(n, "%q: expected %s", shorten(n.Value), what)
		return 1
	}
	return v
}

func (d *decoder) text(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Value == "" || !goodText(n.Value) {
		d.fail(n, "%q: expected 1 to %d printable characters", shorten(n.Value), MaxText)
		return ""
	}
	return n.Value
}

func (d *decoder) time(n *yaml.Node) time.Time {
	at, err := time.Parse(time.RFC3339, n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || at.Unix() < 0 || at.Nanosecond() != 0 {
		d.fail(n, "%q: expected a time as in 2027-01-31T00:00:00Z", shorten(n.Value))
		return time.Time{}
	}
	return at
}

func shorten(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// load reads the only YAML document; nil: there is none. Aliases are refused: a list is meant to be read by people.
func load(text []byte) (*yaml.Node, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("%d bytes, at most %d", len(text), MaxFile)
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, err
	}
	var document, next yaml.Node
	if err := loader.Load(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := loader.Load(&next); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("line %d: a second YAML document", next.Line)
		}
		return nil, err
	}
	if len(document.Content) != 1 {
		return nil, nil
	}
	return document.Content[0], noAliases(document.Content[0])
}

func noAliases(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode {
		return fmt.Errorf("line %d: an alias: write the values out", n.Line)
	}
	for _, c := range n.Content {
		if err := noAliases(c); err != nil {
			return err
		}
	}
	return nil
}

// Source writes a list in YAML; parsing it again gives the same list.
func (l *List) Source() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "version: %d\nnot_before: %s\nnot_after: %s\nsets:\n", l.Version, stamp(l.NotBefore), stamp(l.NotAfter))
	for _, s := range l.Sets {
		fmt.Fprintf(&b, "  - name: %s\n", strconv.Quote(s.Name))
		if s.Version != "" {
			fmt.Fprintf(&b, "    version: %s\n", strconv.Quote(s.Version))
		}
		fmt.Fprintf(&b, "    tier: %s\n    bank: %s\n", s.Tier, banks[s.Tier].name)
		if !s.NotBefore.Equal(l.NotBefore) {
			fmt.Fprintf(&b, "    not_before: %s\n", stamp(s.NotBefore))
		}
		if !s.NotAfter.Equal(l.NotAfter) {
			fmt.Fprintf(&b, "    not_after: %s\n", stamp(s.NotAfter))
		}
		b.WriteString("    pcrs:\n")
		for _, r := range s.PCRs {
			if len(r.Values) == 1 {
				fmt.Fprintf(&b, "      %d: %q\n", r.Index, hex.EncodeToString(r.Values[0]))
				continue
			}
			fmt.Fprintf(&b, "      %d:\n", r.Index)
			for _, v := range r.Values {
				fmt.Fprintf(&b, "        - %q\n", hex.EncodeToString(v))
			}
		}
	}
	return []byte(b.String())
}
