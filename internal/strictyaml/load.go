// Package strictyaml reads the YAML files that people write for this project: policies, ceilings, lists that are signed. It is
// strict (unknown keys, keys that stand twice and values of another kind are errors), it finds every mistake of a file at once,
// each with line, column and what to write instead, and what aliases make of a file is bounded.
//
// A reader turns nodes into the caller's values; the caller checks these and reports what it finds by the same places.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Bounds of YAML: what aliases may make of a file.
const (
	maxNodes = 100_000
	maxDepth = 32
)

// Node is a value of a file.
type Node = yaml.Node

// File says what is read.
type File struct {
	Name  string // for messages
	What  string // what the file is: a policy, a ceiling
	Empty string // what to write into one that is empty
	Limit int    // bytes
}

type position struct{ line, column int }

type located struct {
	at    Place
	fault *Fault
}

// Reader turns the nodes of one file into values and remembers where each stood. It is used by one goroutine.
type Reader struct {
	file      File
	positions map[Place]position
	problems  []located
	found     Errors // of inner readers
	nodes     *int
}

// Load reads the only document of data. The error is of type Errors: after a mistake of YAML itself only that one is known.
func Load(file File, data []byte) (*Reader, *Node, error) {
	r := &Reader{file: file, positions: map[Place]position{}, nodes: new(int)}
	if len(data) > file.Limit {
		return nil, nil, Errors{{File: file.Name, Message: fmt.Sprintf("%s of %d bytes, at most %d", file.What, len(data), file.Limit), Fix: "use wider patterns"}}
	}
	if at, ok := firstInvalid(data); ok {
		return nil, nil, Errors{{File: file.Name, Line: at.line, Column: at.column, Message: "not UTF-8 text", Fix: "save the file as UTF-8"}}
	}
	document, problem := file.document(data)
	if problem != nil {
		problem.File = file.Name
		return nil, nil, Errors{problem}
	}
	return r, document, nil
}

// Inner returns a reader for a part of the same file that has places of its own. Its bound is that of the whole file, and Err of
// this reader has its problems when Close was called.
func (r *Reader) Inner() *Reader {
	return &Reader{file: r.file, positions: map[Place]position{}, nodes: r.nodes}
}

// Close hands the problems of an inner reader to its outer one.
func (r *Reader) Close(outer *Reader) { outer.found = append(outer.found, r.errors()...) }

// Report notes what is wrong with the value at a place; nil is no mistake.
func (r *Reader) Report(at Place, f *Fault) {
	if f != nil {
		r.problems = append(r.problems, located{at, f})
	}
}

// Count is how many mistakes were found so far.
func (r *Reader) Count() int { return len(r.problems) + len(r.found) }

// Err is nil, or all mistakes in the order of the file, of type Errors.
func (r *Reader) Err() error {
	if r.Count() == 0 {
		return nil
	}
	return r.errors()
}

// errors gives each problem its position in the file.
func (r *Reader) errors() Errors {
	problems := slices.Clone(r.found)
	for _, p := range r.problems {
		problem := &Problem{File: r.file.Name, Message: p.fault.Message, Fix: p.fault.Fix}
		where, ok := r.positions[p.at]
		if !ok { // what is missing has no place: it is said where it would stand
			problem.Message = strings.TrimSuffix(string(p.at), "@") + ": " + problem.Message
			for at := p.at; !ok && at != ""; where, ok = r.positions[at] {
				at = at.outer()
			}
		}
		problem.Line, problem.Column = where.line, where.column
		problems = append(problems, problem)
	}
	return sorted(problems)
}

// firstInvalid finds the first byte that is no text: not UTF-8, or NUL.
func firstInvalid(data []byte) (position, bool) {
	at := position{1, 1}
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if (r == utf8.RuneError && size == 1) || r == 0 {
			return at, true
		}
		at.column++
		if r == '\n' {
			at = position{at.line + 1, 1}
		}
		data = data[size:]
	}
	return at, false
}

// document reads the only YAML document of data.
func (f File) document(data []byte) (*Node, *Problem) {
	empty := &Problem{Line: 1, Column: 1, Message: "empty " + f.What, Fix: f.Empty}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, &Problem{Message: err.Error()}
	}
	var document, next Node
	err = loader.Load(&document)
	switch {
	case errors.Is(err, io.EOF):
		return nil, empty
	case err != nil:
		return nil, yamlProblem(err)
	}
	switch err := loader.Load(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, yamlProblem(err)
	default:
		return nil, &Problem{Line: next.Line, Column: next.Column, Message: "second YAML document", Fix: fmt.Sprintf("keep one %s in one file", f.What)}
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		empty.Line, empty.Column = root.Line, root.Column
		return nil, empty
	}
	return root, nil
}

// yamlProblem explains a mistake of YAML, with the traps that patterns lay.
func yamlProblem(err error) *Problem {
	p := &Problem{Line: 1, Column: 1, Message: err.Error()}
	var loadErr *yaml.LoadError
	if errors.As(err, &loadErr) {
		p.Message = "YAML: " + loadErr.Message
		p.Line, p.Column = max(1, loadErr.Mark.Line), max(1, loadErr.Mark.Column)
	}
	switch {
	case strings.Contains(p.Message, "unknown anchor"):
		p.Fix = `a value that starts with * is an alias: put quotes around it, as in "*.example.com"`
	case strings.Contains(p.Message, "',' or ']'"), strings.Contains(p.Message, "',' or '}'"):
		p.Fix = `put quotes around values with { } [ ] or , as in ["/usr/{bin,lib}/**"]`
	case strings.Contains(p.Message, "cannot start any token"):
		p.Fix = "indent with spaces, and put quotes around values that start with a sign"
	}
	return p
}
