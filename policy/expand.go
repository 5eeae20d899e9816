package policy

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// ErrHome says that a home folder cannot stand for ~.
var ErrHome = errors.New("home folder cannot stand for ~")

// Expand returns a normalised copy in which a leading ~ of each path pattern is home, which must be an absolute, clean path in
// UTF-8. Signs of the pattern language in home lose their meaning. A mode that is empty stays so, for Narrow to inherit. The
// result is a permit.
func (p *Policy) Expand(home string) (*Policy, error) {
	if !path.IsAbs(home) || path.Clean(home) != home || !utf8.ValidString(home) {
		return nil, fmt.Errorf("%w: %q is not an absolute, clean path in UTF-8", ErrHome, home)
	}
	if _, f := parsePattern(quotePattern(home)); f != nil {
		return nil, fmt.Errorf("%w: %w", ErrHome, f)
	}
	expanded := *p
	quoted := strings.TrimSuffix(quotePattern(home), "/")
	if f := p.Filesystem; f != nil {
		expanded.Filesystem = &Filesystem{
			Read:            expandAll(f.Read, quoted),
			Write:           expandAll(f.Write, quoted),
			Exec:            expandAll(f.Exec, quoted),
			Deny:            expandAll(f.Deny, quoted),
			RequireApproval: expandAll(f.RequireApproval, quoted),
			Static:          f.Static,
			Hashes:          spellHashes(f.Hashes, func(path string) string { return expandAll([]string{path}, quoted)[0] }),
		}
	}
	if n := p.Network; n != nil {
		network := *n
		network.Unix = expandAll(n.Unix, quoted)
		expanded.Network = &network
	}
	v := validation{}
	v.policy(&expanded)
	if err := v.errors(); err != nil {
		return nil, fmt.Errorf("with ~ as %s: %w", home, err)
	}
	return expanded.normalised(), nil
}

func expandAll(texts []string, home string) []string {
	if len(texts) == 0 {
		return nil
	}
	expanded := make([]string, len(texts))
	for i, text := range texts {
		if text == "~" || strings.HasPrefix(text, "~/") {
			text = home + text[1:]
			if text == "" {
				text = "/"
			}
		}
		expanded[i] = text
	}
	return expanded
}
