package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxSize is the size of the largest policy that is read, in bytes, in every form.
const MaxSize = 1 << 20

// DefaultNamespace is the namespace of a policy that names none.
const DefaultNamespace = "default"

// ErrNotCanonical says that bytes are JSON of a policy, but not the one encoding that its hash stands for.
var ErrNotCanonical = errors.New("policy is not in canonical form")

// Canonical returns the RFC 8785 JSON of the normalised policy: defaults of its sections filled in, lists sorted and each item
// once, paths cleaned, hosts in lower case. Comments, order, anchors and layout of a file do not matter. Namespace, mode and
// on_violation that are empty, as in a manifest's permissions or an intent, stay absent: Narrow inherits them; Parse fills
// them in. Of a policy that Parse, ParseIntent, ParseCanonical, Expand or Narrow returned it is what ParseCanonical accepts.
func (p *Policy) Canonical() []byte {
	normal := p.normalised()
	return normal.encode()
}

// Hash is SHA-256 of Canonical.
func (p *Policy) Hash() [32]byte { return sha256.Sum256(p.Canonical()) }

// ParseCanonical reads the canonical form and nothing else: the bytes must be exactly what Canonical returns. It is made for
// bytes from a peer that is not trusted. Errors of content are of type Errors, of form wrap ErrNotCanonical.
func ParseCanonical(data []byte) (*Policy, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("policy of %d bytes: at most %d", len(data), MaxSize)
	}
	var p Policy
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotCanonical, err)
	}
	v := validation{}
	v.policy(&p)
	if err := v.errors(); err != nil {
		return nil, err
	}
	if !bytes.Equal(p.Canonical(), data) {
		return nil, ErrNotCanonical
	}
	return &p, nil
}

// normalised is the policy with the defaults of its sections, sorted lists and clean items. Items that are not valid stay as they are.
func (p *Policy) normalised() *Policy {
	n := *p
	if f := p.Filesystem; f != nil {
		n.Filesystem = &Filesystem{
			Read:            normalList(f.Read, cleanPattern),
			Write:           normalList(f.Write, cleanPattern),
			Exec:            normalList(f.Exec, cleanPattern),
			Deny:            normalList(f.Deny, cleanPattern),
			RequireApproval: normalList(f.RequireApproval, cleanPattern),
			Static:          f.Static,
			Hashes:          spellHashes(f.Hashes, cleanPattern),
		}
	}
	if w := p.Network; w != nil {
		n.Network = &Network{
			DefaultAction: withDefault(w.DefaultAction, Drop),
			OnDeny:        withDefault(w.OnDeny, Blackhole),
			Egress:        normalList(w.Egress, normalEgress),

			RequireApproval: normalList(w.RequireApproval, normalEgress),
			Listen:          normalList(w.Listen, normalListen),
			Ingress:         normalList(w.Ingress, normalIngress),
			Unix:            normalList(w.Unix, cleanPattern),
			Isolate:         w.Isolate,
			Unmetered:       w.Unmetered.normalised(),
		}
	}
	n.Approval = p.Approval.normalised()
	return &n
}

func withDefault[T ~string](value, standard T) T {
	if value == "" {
		return standard
	}
	return value
}

func normalList(items []string, normal func(string) string) []string {
	if len(items) == 0 {
		return nil
	}
	list := make([]string, len(items))
	for i, item := range items {
		list[i] = normal(item)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// normalEgress spells a rule in one way: addresses as netip prints them, names in lower case.
func normalEgress(text string) string {
	e, f := parseEgress(text)
	if f != nil {
		return text
	}
	return e.String()
}

func normalListen(text string) string {
	endpoints, f := parseListen(text)
	if f != nil || len(endpoints) != 1 {
		return text
	}
	e := endpoints[0]
	if e.Prefix.Bits() == 0 {
		e.Prefix, _ = e.Prefix.Addr().Prefix(e.Prefix.Addr().BitLen()) // 0.0.0.0 and :: are written as addresses
	}
	return e.String()
}

func normalIngress(text string) string {
	endpoints, f := parseIngress(text)
	if f != nil || len(endpoints) != 1 {
		return text
	}
	return endpoints[0].String()
}

// encode writes RFC 8785 JSON. All keys of a policy are ASCII, so that the order of bytes is the order of UTF-16 that section
// 3.2.3 asks for. Empty lists and absent values are left out, empty sections are not.
func (p *Policy) encode() []byte {
	o := object{}
	if a := p.Approval; a != nil {
		section := object{}
		section.text("on_timeout", string(a.OnTimeout))
		section.word("timeout", a.Timeout)
		o.raw("approval", section.close())
	}
	if f := p.Filesystem; f != nil {
		section := object{}
		section.list("deny", f.Deny)
		section.items("exec", f.execList())
		section.list("read", f.Read)
		section.list("require_approval", f.RequireApproval)
		if f.Static {
			section.raw("static", []byte("true"))
		}
		section.list("write", f.Write)
		o.raw("filesystem", section.close())
	}
	o.word("mode", string(p.Mode))
	o.word("namespace", p.Namespace)
	if w := p.Network; w != nil {
		section := object{}
		section.text("default_action", string(w.DefaultAction))
		section.list("egress", w.Egress)
		section.list("ingress", w.Ingress)
		if w.Isolate {
			section.raw("isolate", []byte("true"))
		}
		section.list("listen", w.Listen)
		section.text("on_deny", string(w.OnDeny))
		section.list("require_approval", w.RequireApproval)
		section.list("unix", w.Unix)
		section.word("unmetered", string(w.Unmetered))
		o.raw("network", section.close())
	}
	o.word("on_violation", string(p.OnViolation))
	if r := p.Resources; r != nil {
		section := object{}
		section.number("max_fds", r.MaxFDs)
		section.number("max_memory_mb", r.MaxMemoryMB)
		section.number("max_processes", r.MaxProcesses)
		o.raw("resources", section.close())
	}
	if len(p.Syscalls) > 0 {
		section := object{}
		for _, name := range sortedKeys(p.Syscalls) {
			section.text(name, string(p.Syscalls[name]))
		}
		o.raw("syscalls", section.close())
	}
	return o.close()
}

// object is a JSON object while it is written; its owner adds the keys in order.
type object struct{ bytes []byte }

func (o *object) raw(key string, value []byte) {
	separator := byte(',')
	if len(o.bytes) == 0 {
		separator = '{'
	}
	o.bytes = append(o.bytes, separator)
	o.bytes = appendString(o.bytes, key)
	o.bytes = append(o.bytes, ':')
	o.bytes = append(o.bytes, value...)
}

func (o *object) text(key, value string) { o.raw(key, appendString(nil, value)) }

// word is text that is absent when empty.
func (o *object) word(key, value string) {
	if value != "" {
		o.text(key, value)
	}
}

func (o *object) number(key string, value *uint64) {
	if value != nil {
		o.raw(key, strconv.AppendUint(nil, *value, 10))
	}
}

func (o *object) list(key string, items []string) {
	encoded := make([][]byte, len(items))
	for i, item := range items {
		encoded[i] = appendString(nil, item)
	}
	o.items(key, encoded)
}

// items writes a list of what is encoded already; an empty one is left out.
func (o *object) items(key string, encoded [][]byte) {
	if len(encoded) > 0 {
		o.raw(key, slices.Concat([]byte{'['}, bytes.Join(encoded, []byte{','}), []byte{']'}))
	}
}

func (o *object) close() []byte {
	if len(o.bytes) == 0 {
		return []byte("{}")
	}
	return append(o.bytes, '}')
}

// appendString writes a string as RFC 8785 section 3.2.2.2 wants it. What is not UTF-8, which no valid policy has, becomes
// U+FFFD.
func appendString(b []byte, text string) []byte {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\ufffd")
	}
	b = append(b, '"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < 0x20:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
