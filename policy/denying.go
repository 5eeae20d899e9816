package policy

import "slices"

// Denying is the policy with deny rules more: for paths, and for all below them. Where it governs no files it stays as it is.
func (p *Policy) Denying(paths []string) *Policy {
	if len(paths) == 0 || p.Filesystem == nil {
		return p
	}
	narrower, files := *p, *p.Filesystem
	files.Deny = slices.Clone(files.Deny)
	for _, path := range paths {
		quoted := quotePattern(path)
		files.Deny = append(files.Deny, quoted, quoted+"/**")
	}
	narrower.Filesystem = &files
	return &narrower
}
