package manifest

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/raypher/raypher/policy"
)

// Bounds of a document. A manifest comes from whoever wrote the skill, so each dimension has a limit of its own.
const (
	maxDocument = 1 << 20 // bytes
	maxDepth    = 8       // nested objects and arrays; the format needs 4
	maxString   = 4096    // bytes of one decoded string
	maxItems    = 8192    // members of one object, elements of one array
	maxPatterns = 512     // items of one list of permissions
)

// kind is the JSON type of a node.
type kind string

const (
	kindObject kind = "object"
	kindArray  kind = "array"
	kindString kind = "string"
	kindNumber kind = "number"
	kindBool   kind = "true or false"
	kindNull   kind = "null"
)

// node is one JSON value with the place where it begins. Lines and columns count from 1, columns in characters.
type node struct {
	kind      kind
	line, col int
	text      string   // kindString, decoded
	members   []member // kindObject, in document order, keys unique
	elements  []*node  // kindArray
}

type member struct {
	key       string
	line, col int // of the key
	value     *node
}

// scanner reads RFC 8259 JSON more strictly than encoding/json: duplicate keys, invalid UTF-8, lone surrogates and
// trailing bytes are errors. Duplicate keys are collected in problems, since reading can go on after them; the first error
// of syntax ends it.
type scanner struct {
	data     []byte
	pos      int
	line     int
	counted  int // columns of this line are counted up to this offset ...
	col      int // ... which is this column, less one
	problems *problems
}

// parseJSON returns the tree of data, or nil and the problem that ended it in ps.
func parseJSON(data []byte, ps *problems) *node {
	s := &scanner{data: data, line: 1, problems: ps}
	if len(data) > maxDocument {
		ps.add(1, 1, fmt.Sprintf("the file has %d bytes", len(data)), fmt.Sprintf("a manifest has at most %d bytes", maxDocument))
		return nil
	}
	if !s.checkUTF8() {
		return nil
	}
	s.space()
	root, err := s.value(0)
	if err != nil {
		ps.add(err.Line, err.Column, err.Message, err.Fix)
		return nil
	}
	s.space()
	if s.pos < len(s.data) {
		err := s.errorf("remove everything after the closing brace", "%s after the end of the document", s.found())
		ps.add(err.Line, err.Column, err.Message, err.Fix)
		return nil
	}
	return root
}

// checkUTF8 refuses bytes that are not UTF-8, and a byte order mark (RFC 8259 section 8.1: must not be added).
func (s *scanner) checkUTF8() bool {
	if strings.HasPrefix(string(s.data), "\ufeff") {
		s.problems.add(1, 1, "the file begins with a byte order mark", "save it as UTF-8 without one")
		return false
	}
	line, col := 1, 1
	for i := 0; i < len(s.data); {
		r, size := utf8.DecodeRune(s.data[i:])
		if r == utf8.RuneError && size == 1 {
			s.problems.add(line, col, fmt.Sprintf("byte 0x%02x is not UTF-8", s.data[i]), "save the file as UTF-8")
			return false
		}
		i += size
		col++
		if r == '\n' {
			line, col = line+1, 1
		}
	}
	return true
}

// here returns line and column of the current position. It counts on from where it last stopped: a document in one line must
// not cost the square of its length.
func (s *scanner) here() (line, col int) {
	s.col += utf8.RuneCount(s.data[s.counted:s.pos])
	s.counted = s.pos
	return s.line, s.col + 1
}

func (s *scanner) errorf(fix, format string, args ...any) *policy.Problem {
	line, col := s.here()
	return &policy.Problem{Line: line, Column: col, Message: fmt.Sprintf(format, args...), Fix: fix}
}

// found names what stands at the current position.
func (s *scanner) found() string {
	if s.pos >= len(s.data) {
		return "end of file"
	}
	r, _ := utf8.DecodeRune(s.data[s.pos:])
	return strconv.QuoteRune(r)
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case '\n':
			s.line++
			s.counted, s.col = s.pos+1, 0
		case ' ', '\t', '\r':
		default:
			return
		}
		s.pos++
	}
}

func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) value(depth int) (*node, *policy.Problem) {
	if depth > maxDepth {
		return nil, s.errorf("see docs/manifest.md for the format", "values are nested more than %d deep", maxDepth)
	}
	line, col := s.here()
	n := &node{line: line, col: col}
	var err *policy.Problem
	switch c := s.peek(); {
	case c == '{':
		n.kind = kindObject
		err = s.object(n, depth)
	case c == '[':
		n.kind = kindArray
		err = s.array(n, depth)
	case c == '"':
		n.kind = kindString
		n.text, err = s.str()
	case c == '-' || c >= '0' && c <= '9':
		n.kind = kindNumber
		err = s.number()
	default:
		err = s.literal(n)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (s *scanner) object(n *node, depth int) *policy.Problem {
	s.pos++
	s.space()
	seen := make(map[string]int)
	for first := true; s.peek() != '}'; first = false {
		if !first {
			if s.peek() != ',' {
				return s.errorf("put a comma between members, or close the object with }", "expected , or }, found %s", s.found())
			}
			s.pos++
			s.space()
		}
		m := member{}
		m.line, m.col = s.here()
		if s.peek() != '"' {
			return s.errorf("keys are strings in double quotes, with no comma after the last member", "expected a key, found %s", s.found())
		}
		var err *policy.Problem
		if m.key, err = s.str(); err != nil {
			return err
		}
		s.space()
		if s.peek() != ':' {
			return s.errorf("write \"key\": value", "expected : after the key %q, found %s", m.key, s.found())
		}
		s.pos++
		s.space()
		if m.value, err = s.value(depth + 1); err != nil {
			return err
		}
		s.space()
		if before, twice := seen[m.key]; twice {
			s.problems.add(m.line, m.col, fmt.Sprintf("the key %q stands twice, first in line %d", m.key, before), "remove one of them")
			continue
		}
		if len(n.members) == maxItems {
			return s.errorf("split the skill", "more than %d members in one object", maxItems)
		}
		seen[m.key] = m.line
		n.members = append(n.members, m)
	}
	s.pos++
	return nil
}

func (s *scanner) array(n *node, depth int) *policy.Problem {
	s.pos++
	s.space()
	for first := true; s.peek() != ']'; first = false {
		if !first {
			if s.peek() != ',' {
				return s.errorf("put a comma between elements, or close the list with ]", "expected , or ], found %s", s.found())
			}
			s.pos++
			s.space()
		}
		if len(n.elements) == maxItems {
			return s.errorf("use patterns instead of single items", "more than %d elements in one list", maxItems)
		}
		v, err := s.value(depth + 1)
		if err != nil {
			return err
		}
		n.elements = append(n.elements, v)
		s.space()
	}
	s.pos++
	return nil
}

// str reads a string; the position is at its opening quote.
func (s *scanner) str() (string, *policy.Problem) {
	s.pos++
	var b strings.Builder
	for {
		if s.pos >= len(s.data) {
			return "", s.errorf("close the string with a double quote", "the string does not end")
		}
		if b.Len() > maxString {
			return "", s.errorf("shorten it", "a string of more than %d bytes", maxString)
		}
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return b.String(), nil
		case c < 0x20:
			return "", s.errorf(`close the string with a double quote, or write it as an escape such as \n`, "control character %q in a string", rune(c))
		case c == '\\':
			r, err := s.escape()
			if err != nil {
				return "", err
			}
			b.WriteRune(r)
		default:
			b.WriteByte(c)
			s.pos++
		}
	}
}

var escapes = map[byte]rune{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escape reads one escape sequence, both halves of a surrogate pair included. A lone surrogate has no UTF-8 form and
// RFC 8785 section 3.2.2.2 demands an error for it.
func (s *scanner) escape() (rune, *policy.Problem) {
	if s.pos+1 >= len(s.data) {
		return 0, s.errorf("close the string with a double quote", "the string does not end")
	}
	if r, ok := escapes[s.data[s.pos+1]]; ok {
		s.pos += 2
		return r, nil
	}
	r, ok := s.hex4(s.pos)
	if !ok {
		return 0, s.errorf(`use \" \\ \/ \b \f \n \r \t or \u and four hex digits`, "unknown escape sequence in a string")
	}
	if !utf16.IsSurrogate(r) {
		s.pos += 6
		return r, nil
	}
	low, _ := s.hex4(s.pos + 6)
	pair := utf16.DecodeRune(r, low)
	if pair == utf8.RuneError {
		return 0, s.errorf("write the character itself, or both halves of its pair", "half of a surrogate pair in a string")
	}
	s.pos += 12
	return pair, nil
}

// hex4 reads \uXXXX at offset.
func (s *scanner) hex4(offset int) (rune, bool) {
	if offset+6 > len(s.data) || s.data[offset] != '\\' || s.data[offset+1] != 'u' {
		return 0, false
	}
	var v rune
	for _, c := range s.data[offset+2 : offset+6] {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			v = v<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// number skips a number. The format has none, so its value does not matter; that it is one decides the message.
func (s *scanner) number() *policy.Problem {
	for s.pos < len(s.data) && strings.IndexByte("+-.0123456789eE", s.data[s.pos]) >= 0 {
		s.pos++
	}
	return nil
}

func (s *scanner) literal(n *node) *policy.Problem {
	for text, k := range map[string]kind{"true": kindBool, "false": kindBool, "null": kindNull} {
		if strings.HasPrefix(string(s.data[s.pos:min(len(s.data), s.pos+len(text))]), text) {
			n.kind = k
			s.pos += len(text)
			return nil
		}
	}
	switch c := s.peek(); {
	case c == '/' || c == '#':
		return s.errorf("JSON has no comments: remove it", "expected a value, found a comment")
	case c == '\'':
		return s.errorf("use double quotes", "expected a value, found a single quote")
	case s.pos >= len(s.data):
		return s.errorf("the file is cut short or a bracket is not closed", "expected a value, found the end of the file")
	}
	return s.errorf("values are objects, lists and strings; NaN and Infinity are not JSON", "expected a value, found %s", s.found())
}
