package doctor

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// table is what the conformance table asks of each backend, made from it as docs/conformance.md is (test/conformance.TestHolds).
//
//go:embed holds.json
var table []byte

// Class is a class of things that agents try, and whether the backend in force holds it.
type Class struct {
	Class string    `json:"class"`
	Cases int       `json:"cases"`           // of the conformance table
	Holds string    `json:"holds"`           // which backends hold it: both, lsm or broker
	Held  int       `json:"held"`            // of the cases, by the backend in force
	Apart []Unequal `json:"apart,omitempty"` // cases that one backend alone holds
}

// Unequal is a case that one backend alone holds.
type Unequal struct {
	Case   string `json:"case"`
	Holds  string `json:"holds"`
	Reason string `json:"reason"` // why the other does not
}

// classes are those of the table under a backend.
func classes(backend string) []Class {
	var all []Class
	if err := json.Unmarshal(table, &all); err != nil {
		panic("parent/doctor/holds.json: " + err.Error()) // it is built in, and a test reads it
	}
	for i := range all {
		c := &all[i]
		c.Held = c.Cases
		for _, u := range c.Apart {
			if u.Holds != backend {
				c.Held--
			}
		}
	}
	return all
}

// holds says in words what the backend in force holds.
func (r *Report) holds() string {
	if len(r.Holds) == 0 {
		return "" // a report of some checks alone
	}
	var b strings.Builder
	var held []string
	cases, all := 0, 0
	for _, c := range r.Holds {
		all += c.Cases
		cases += c.Held
		if c.Held > 0 {
			held = append(held, c.Class)
		}
	}
	fmt.Fprintf(&b, "holds    %d of the %d cases of docs/conformance.md: %s\n", cases, all, wrap(held))
	for _, c := range r.Holds {
		for _, u := range slices.DeleteFunc(slices.Clone(c.Apart), func(u Unequal) bool { return u.Holds == r.Backend }) {
			fmt.Fprintf(&b, "not held %s: %s (backend %s does): %s\n", c.Class, u.Case, u.Holds, u.Reason)
		}
	}
	return b.String()
}

// wrap joins names in lines that fit behind the label of Print.
func wrap(names []string) string {
	const width = 110
	var b strings.Builder
	length := 0
	for i, name := range names {
		if length+len(name) > width {
			b.WriteString("\n         ")
			length = 0
		}
		b.WriteString(name)
		length += len(name) + 2
		if i < len(names)-1 {
			b.WriteString(", ")
		}
	}
	return strings.ReplaceAll(b.String(), ", \n", ",\n")
}
