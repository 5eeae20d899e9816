package policy

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/raypher/raypher/internal/strictyaml"
)

// A program can be named with what it must be: exec: [{path: /usr/bin/git, sha256: <64 hex digits>}]. Filesystem.Exec holds its
// path like every other rule, and Filesystem.Hashes says which content a file at that path must have to be executed, whichever
// rule grants it. So a hash only ever takes away, and comparing two policies carries the hashes of the outer one down.

// hashedFix is how a program with a hash is written.
const hashedFix = `write {path: /usr/bin/git, sha256: <64 hex digits of sha256sum>}`

// execItems are the items of an exec list: path patterns, and mappings of a path and its hash.
func (d decoder) execItems(f *Filesystem) strictyaml.Items {
	items := paths
	items.Mapping = func(at location, n *strictyaml.Node) (string, *fault) {
		var path, sum string
		d.Fields(at, n, map[string]func(location, *strictyaml.Node){
			"path": func(at location, n *strictyaml.Node) { d.Text(at, n, &path) },
			"sha256": func(at location, n *strictyaml.Node) {
				if tag := n.ShortTag(); tag == "!!int" || tag == "!!float" { // 64 digits without a letter, or with one e
					sum = n.Value
					return
				}
				d.Text(at, n, &sum)
			},
		})
		if path == "" || sum == "" {
			return "", faultf(hashedFix, "a program with a hash needs path and sha256")
		}
		if before, twice := f.Hashes[path]; twice && before != sum {
			return "", faultf("keep the one that the program has", "%s stands twice, with two hashes", shorten(path))
		}
		if f.Hashes == nil {
			f.Hashes = map[string]string{}
		}
		f.Hashes[path] = sum
		return path, nil
	}
	return items
}

// hashes checks the hashes of a section.
func (v *validation) hashes(f *Filesystem) {
	cleaned := map[string]string{}
	for _, path := range sortedKeys(f.Hashes) {
		at := location("filesystem.exec").Item(max(0, slices.Index(f.Exec, path)))
		sum := f.Hashes[path]
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 {
			v.report(at, faultf(hashedFix, "%q is no SHA-256", shorten(sum)))
		}
		if patterns, fault := parsePattern(path); fault == nil {
			if _, one := literalPath(patterns); !one {
				v.report(at, faultf("name one file", "%q: a hash is of one file, and this pattern can match several", shorten(path)))
			}
		}
		clean := cleanPattern(path)
		if before, twice := cleaned[clean]; twice && !strings.EqualFold(before, sum) {
			v.report(at, faultf("keep the one that the program has", "%s stands twice, with two hashes", shorten(path)))
		}
		cleaned[clean] = sum
	}
}

// literalPath is the one path that patterns match, false when they can match others; without what ~ stands for.
func literalPath(patterns []pattern) (string, bool) {
	if len(patterns) != 1 || len(patterns[0].components) == 0 {
		return "", false
	}
	path, rest := literalPrefix(patterns[0].components)
	return path, len(rest) == 0
}

// spellHashes is hashes with other spellings of the paths, and lower-case digits. Nil stays nil.
func spellHashes(hashes map[string]string, spell func(string) string) map[string]string {
	if len(hashes) == 0 {
		return nil
	}
	all := make(map[string]string, len(hashes))
	for path, sum := range hashes {
		all[spell(path)] = strings.ToLower(sum)
	}
	return all
}

// carryHashes carries the hashes of the outer section down to what the inner one may execute. The same path cannot have two. A path
// that inner grants by a wider pattern gets a rule of its own, which grants nothing new.
func (c *filesComparison) carryHashes() (exec []string, hashes map[string]string) {
	exec, hashes = c.inner.Exec, maps.Clone(c.inner.Hashes)
	for _, path := range sortedKeys(c.outer.Hashes) {
		above := c.outer.Hashes[path]
		if own, has := hashes[path]; has {
			if !strings.EqualFold(own, above) {
				c.report(listExec, path, "the policy above has another sha256 for it")
			}
			continue
		}
		executed := listExec.bit() << innerShift
		if _, found, ok := c.both.search(path, func(m mask) bool { return m&executed != 0 }, nil); ok && !found {
			continue
		}
		if hashes == nil {
			hashes = map[string]string{}
		}
		hashes[path] = above
		exec = sortedUnion(exec, []string{path})
	}
	return exec, hashes
}

// execList is the exec list in canonical form.
func (f *Filesystem) execList() [][]byte {
	items := make([][]byte, 0, len(f.Exec))
	for _, path := range f.Exec {
		item := appendString(nil, path)
		if sum, has := f.Hashes[path]; has {
			var o object
			o.text("path", path)
			o.text("sha256", sum)
			item = o.close()
		}
		items = append(items, item)
	}
	return items
}

// hashedProgram is an item of a list in JSON.
type hashedProgram struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

// UnmarshalJSON reads a section as Canonical writes it. Unknown keys are errors.
func (f *Filesystem) UnmarshalJSON(data []byte) error {
	type plain Filesystem
	section := struct {
		*plain
		Exec []json.RawMessage `json:"exec"`
	}{plain: (*plain)(f)}
	if err := strictJSON(data, &section); err != nil {
		return err
	}
	for _, raw := range section.Exec {
		var one hashedProgram
		if bytes.HasPrefix(raw, []byte{'{'}) {
			if err := strictJSON(raw, &one); err != nil {
				return err
			}
			if f.Hashes == nil {
				f.Hashes = map[string]string{}
			}
			f.Hashes[one.Path] = one.SHA256
		} else if err := json.Unmarshal(raw, &one.Path); err != nil {
			return err
		}
		f.Exec = append(f.Exec, one.Path)
	}
	return nil
}

func strictJSON(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

// HashedPrograms returns the paths of an expanded section whose content is fixed, and the SHA-256 that each must have.
func (f *Filesystem) HashedPrograms() map[string][32]byte {
	if f == nil || len(f.Hashes) == 0 {
		return nil
	}
	programs := make(map[string][32]byte, len(f.Hashes))
	for text, sum := range f.Hashes {
		patterns, fault := parsePattern(text)
		raw, err := hex.DecodeString(sum)
		if fault != nil || err != nil || len(raw) != 32 || patterns[0].home {
			continue
		}
		if path, one := literalPath(patterns); one {
			programs[path] = [32]byte(raw)
		}
	}
	return programs
}
