package dialect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/unicode/norm"
)

// maxTokens is the largest count that a request may name: sums and products of a few of them stay far from 2^63.
const maxTokens = 1 << 31

// object is a JSON object whose members keep their order and their bytes.
type object struct {
	raw     []byte
	members []member
}

type member struct {
	name  string
	value jsontext.Value
}

// parseObject reads exactly one object. Names that appear twice, at any depth, and bytes that are not UTF-8 are errors.
func parseObject(raw []byte) (*object, error) {
	o := &object{raw: raw}
	return o, o.parse()
}

// parsed reads one object of a document that parseObject has read: what would be wrong with it was seen there.
func parsed(value jsontext.Value) (*object, error) {
	o := &object{raw: value}
	return o, o.parse(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

func (o *object) parse(options ...jsontext.Options) error {
	decoder := jsontext.NewDecoder(bytes.NewBuffer(o.raw), options...) // a Buffer is read in place
	begin, err := decoder.ReadToken()
	if err != nil {
		return err
	}
	if begin.Kind() != '{' {
		return errors.New("it is no object")
	}
	for decoder.PeekKind() != '}' {
		name, err := decoder.ReadToken()
		if err != nil {
			return err
		}
		m := member{name: name.String()}
		if m.value, err = next(decoder, o.raw); err != nil {
			return err
		}
		o.members = append(o.members, m)
	}
	if _, err := decoder.ReadToken(); err != nil {
		return err
	}
	if _, err := decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}

// next returns the next value where it lies in raw; what the decoder returns would last until its next one.
func next(decoder *jsontext.Decoder, raw []byte) (jsontext.Value, error) {
	value, err := decoder.ReadValue()
	if err != nil {
		return nil, err
	}
	end := int(decoder.InputOffset())
	return jsontext.Value(raw[end-len(value) : end : end]), nil
}

// get returns a member's value; nil where it is missing or null.
func (o *object) get(name string) jsontext.Value {
	for _, m := range o.members {
		if m.name == name && !isNull(m.value) {
			return m.value
		}
	}
	return nil
}

func (o *object) set(name string, value jsontext.Value) {
	o.raw = nil
	for i := range o.members {
		if o.members[i].name == name {
			o.members[i].value = value
			return
		}
	}
	o.members = append(o.members, member{name: name, value: value})
}

// setInt sets a number below objects that are made where they are missing.
func (o *object) setInt(path []string, n int64) error {
	if len(path) == 1 {
		o.set(path[0], jsontext.Value(strconv.FormatInt(n, 10)))
		return nil
	}
	inner, err := o.object(path[0])
	if err != nil {
		return err
	}
	if inner == nil {
		inner = new(object)
	}
	if err := inner.setInt(path[1:], n); err != nil {
		return err
	}
	o.set(path[0], inner.encode())
	return nil
}

func (o *object) encode() []byte {
	if o.raw != nil {
		return o.raw
	}
	out := []byte{'{'}
	for i, m := range o.members {
		if i > 0 {
			out = append(out, ',')
		}
		// Every name came out of JSON or is ASCII of this package, so it can be written.
		out, _ = jsontext.AppendQuote(out, m.name)
		out = append(out, ':')
		out = append(out, m.value...)
	}
	return append(out, '}')
}

// object returns a member that is an object; nil where it is missing or null.
func (o *object) object(name string) (*object, error) {
	value := o.get(name)
	if value == nil {
		return nil, nil
	}
	inner, err := parsed(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return inner, nil
}

// text returns a member that is a string.
func (o *object) text(name string) (s string, there bool, err error) {
	value := o.get(name)
	if value == nil {
		return "", false, nil
	}
	if err := json.Unmarshal(value, &s); err != nil {
		return "", true, fmt.Errorf("%s: a string is expected", name)
	}
	return s, true, nil
}

// flag returns a member that is true or false.
func (o *object) flag(name string) (bool, error) {
	switch value := o.get(name); string(value) {
	case "":
		return false, nil
	case "true", "false":
		return string(value) == "true", nil
	default:
		return false, fmt.Errorf("%s: true or false is expected", name)
	}
}

// count returns a member that is a whole number from 1 to maxTokens; 0 where it is missing or null. Forms as 1e3 and 4.0 are
// errors: not every reader takes them for the same number.
func (o *object) count(name string) (int64, error) {
	value := o.get(name)
	if value == nil {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 1 || n > maxTokens {
		return 0, fmt.Errorf("%s: %.40s: a whole number from 1 to %d is expected", name, value, int64(maxTokens))
	}
	return n, nil
}

// elements returns what is in a member that is an array; nil where it is missing or null.
func (o *object) elements(name string) ([]jsontext.Value, error) {
	value := o.get(name)
	if value == nil {
		return nil, nil
	}
	if value.Kind() != '[' {
		return nil, fmt.Errorf("%s: an array is expected", name)
	}
	return elements(value)
}

// objects returns what is in a member that is an array of objects; nil where it is missing or null.
func (o *object) objects(name string) ([]*object, error) {
	list, err := o.elements(name)
	if err != nil {
		return nil, err
	}
	return objects(name, list)
}

// objects reads each of a list of values as an object; name is the list's, for messages.
func objects(name string, list []jsontext.Value) ([]*object, error) {
	all := make([]*object, len(list))
	for i, raw := range list {
		var err error
		if all[i], err = parsed(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}

// elements returns what is in an array of a document that was read before.
func elements(array jsontext.Value) ([]jsontext.Value, error) {
	decoder := jsontext.NewDecoder(bytes.NewBuffer(array), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if _, err := decoder.ReadToken(); err != nil {
		return nil, err
	}
	var all []jsontext.Value
	for decoder.PeekKind() != ']' {
		value, err := next(decoder, array)
		if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
	return all, nil
}

// expansion returns by how many bytes the strings of a JSON document grow when a tokenizer normalizes them first (NFKC of UAX #15,
// as SentencePiece does by default and others have done): three bytes of U+FDFA become 33. Without it a token could have less
// than a byte. What was escaped counts with the bytes of its escape.
func expansion(document []byte) int64 {
	if isASCII(document) && !bytes.Contains(document, []byte(`\u`)) {
		return 0
	}
	decoder := jsontext.NewDecoder(bytes.NewBuffer(document), jsontext.AllowDuplicateNames(true))
	var grown int64
	for {
		token, err := decoder.ReadToken()
		if err != nil {
			return grown
		}
		if token.Kind() != '"' {
			continue
		}
		s := token.String()
		if norm.NFKC.QuickSpanString(s) == len(s) {
			continue
		}
		grown += max(0, int64(len(norm.NFKC.String(s))-len(s)))
	}
}

// longCache returns the name of a member that asks for a cache that is kept for longer than the shortest time, wherever it stands; empty: none.
func longCache(document []byte) string {
	if !bytes.Contains(document, []byte("cache")) && !bytes.Contains(document, []byte(`\u`)) {
		return ""
	}
	decoder := jsontext.NewDecoder(bytes.NewBuffer(document), jsontext.AllowDuplicateNames(true))
	cache, depth := "", 0 // what describes a cache, and where
	name := ""            // of the value that follows
	for {
		token, err := decoder.ReadToken()
		if err != nil {
			return ""
		}
		in, read := decoder.StackIndex(decoder.StackDepth())
		if token.Kind() == '"' && in == '{' && read%2 == 1 {
			name = token.String()
			continue
		}
		at := decoder.StackDepth()
		if token.Kind() == '{' || token.Kind() == '[' {
			at--
		}
		switch {
		case depth > 0 && at < depth:
			cache, depth = "", 0
		case depth > 0 && at == depth && name == "ttl" && token.Kind() != 'n':
			if life := token.String(); token.Kind() != '"' || life != "5m" && life != "30m" {
				return cache
			}
		case depth == 0 && token.Kind() == '{' && (name == "cache_control" || name == "prompt_cache_breakpoint"):
			cache, depth = name, decoder.StackDepth()
		}
		name = ""
	}
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
