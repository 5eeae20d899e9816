package trace

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// ErrMalformed says that bytes are no trace.
var ErrMalformed = errors.New("not a trace: raypher learn writes one")

// line is any line of a trace.
type line struct {
	Header
	Entry
	End *End `json:"end"`
}

// Read reads a trace, which may come from anywhere: it is bounded, unknown keys and versions are errors, and so is everything after
// its end.
func Read(from io.Reader) (*Trace, error) {
	lines := bufio.NewScanner(io.LimitReader(from, maxBytes+1))
	lines.Buffer(nil, maxLine)
	t := &Trace{}
	number := 0
	bad := func(why string) error { return fmt.Errorf("line %d: %w: %s", number, ErrMalformed, why) }
	for lines.Scan() {
		if number++; t.End != nil {
			return nil, bad("something follows its end")
		}
		var l line
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			return nil, bad(err.Error())
		}
		if d.More() {
			return nil, bad("two values in one line")
		}
		switch {
		case number == 1 && l.Header.Version != Version:
			return nil, bad(fmt.Sprintf("version %d, this program knows %d", l.Header.Version, Version))
		case number == 1:
			t.Header = l.Header
		case l.End != nil:
			t.End = l.End
		case len(t.Entries) >= MaxEntries:
			return nil, bad(fmt.Sprintf("more than %d entries", MaxEntries))
		default:
			if why := l.Entry.wrong(); why != "" {
				return nil, bad(why)
			}
			t.Entries = append(t.Entries, l.Entry)
		}
	}
	switch err := lines.Err(); {
	case err != nil:
		return nil, fmt.Errorf("line %d: %w: %w", number+1, ErrMalformed, err)
	case number == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrMalformed)
	}
	return t, nil
}

// wrong says what an entry must not be like; empty: nothing.
func (e *Entry) wrong() string {
	if e.Operation == "" {
		return "an entry without op"
	}
	if strings.Trim(e.Access, AccessRead+AccessWrite+AccessExec) != "" || len(e.Access) > 3 {
		return fmt.Sprintf("access %q: letters of rwx", e.Access)
	}
	if e.AsPassed {
		return "" // as the program passed it
	}
	for _, p := range []string{e.Path, e.To} {
		if p != "" && (!path.IsAbs(p) || path.Clean(p) != p) {
			return fmt.Sprintf("path %q is not absolute and clean", p)
		}
	}
	return ""
}
