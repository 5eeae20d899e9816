// Package manifest reads, checks and signs clawmanifest.json, in which the author of a skill states what the skill may do and
// which files it consists of.
//
// A manifest narrows: what it asks for must lie within the operator's policy (policy.Narrow), and what it does not mention it
// does not get. raypherd calls Parse, Verify, VerifyFiles and Permissions, in this order, before a skill's agent starts; the
// CLI calls the same and Sign. A manifest that failed any of them must not be used.
//
// The package imports neither side of the pair and enforces nothing.
package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/gowebpki/jcs"

	"github.com/raypher/raypher/manifest/file"
)

// FileName is what the manifest is called in the folder of its skill.
const FileName = file.Name

// Manifest is one clawmanifest.json. A nil section, list or map is one that the document does not have; it grants nothing,
// as does an empty one. The two differ only under the signature.
type Manifest struct {
	SkillID   string            `json:"skill_id"`
	Version   string            `json:"version"`
	Asks      Permissions       `json:"permissions"`
	Hashes    map[string]string `json:"hashes,omitzero"` // slash-separated path below the manifest's folder -> "sha256:" and 64 hex digits
	Signature *Signature        `json:"signature,omitempty"`
}

// Permissions is what the skill asks for. Paths are patterns of the policy language, or begin with ./ for the skill's folder.
type Permissions struct {
	Filesystem *Filesystem `json:"filesystem,omitempty"`
	Network    *Network    `json:"network,omitempty"`
	Exec       []string    `json:"exec,omitzero"`
}

// Filesystem lists the path patterns to read and to write.
type Filesystem struct {
	Read  []string `json:"read,omitzero"`
	Write []string `json:"write,omitzero"`
}

// Network lists the destinations: host, host:port, CIDR, CIDR:port.
type Network struct {
	Egress []string `json:"egress,omitzero"`
}

// Signature is the author's Ed25519 signature over the document without signature.value.
type Signature struct {
	Algorithm string `json:"algorithm"` // "Ed25519"
	SignedBy  string `json:"signed_by"` // name of a trusted signer, or a key id
	// Covers has, by section, one fingerprint for each signed item. It is under the signature but carries no trust: it only
	// lets a refusal name what was changed.
	Covers map[string][]string `json:"covers,omitzero"`
	Value  string              `json:"value,omitempty"` // base64 of 64 bytes
}

var (
	skillIDSyntax = syntax(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$`)
	versionSyntax = syntax(`^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$`)
	digestSyntax  = syntax(`^sha256:[0-9a-f]{64}$`)
)

// syntax is an expression that is compiled when it is first asked for: a start of `raypher run` pays for every package that is
// linked into it, and needs none of these.
func syntax(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// Parse reads a manifest. It does not look at the signature's validity nor at any file. The error is policy.Errors, everything that
// is wrong at once, unless the document is not JSON at all.
func Parse(data []byte) (*Manifest, error) { return ParseFile(FileName, data) }

// ParseFile is Parse with the name that errors carry.
func ParseFile(name string, data []byte) (*Manifest, error) {
	var ps problems
	root := parseJSON(data, &ps)
	if root == nil {
		return nil, ps.err(name)
	}
	d := &document{problems: &ps}
	m := d.manifest(root)
	if err := ps.err(name); err != nil {
		return nil, err
	}
	return m, nil
}

// document turns the tree into a Manifest and collects what is wrong on the way.
type document struct{ problems *problems }

func (d *document) problem(n *node, fix, format string, args ...any) {
	d.problems.add(n.line, n.col, fmt.Sprintf(format, args...), fix)
}

// field reads one key of an object into the Manifest.
type field struct {
	required string // the fix when the key is missing; empty: optional
	read     func(where string, n *node)
}

// object reads n with fields; where is the path of n in the document, for messages.
func (d *document) object(where string, n *node, fields map[string]field) {
	if n.kind != kindObject {
		d.problem(n, "", "%s is %s, it must be an object", name(where), article(n.kind))
		return
	}
	for _, m := range n.members {
		f, known := fields[m.key]
		if !known {
			keys := slices.Sorted(maps.Keys(fields))
			d.problems.add(m.line, m.col, fmt.Sprintf("unknown key %q in %s", m.key, name(where)), "known are "+strings.Join(keys, ", "))
			continue
		}
		f.read(join(where, m.key), m.value)
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		has := slices.ContainsFunc(n.members, func(m member) bool { return m.key == key })
		if fix := fields[key].required; fix != "" && !has {
			d.problem(n, fix, "%s has no %s", name(where), key)
		}
	}
}

func join(where, key string) string {
	if where == "" {
		return key
	}
	return where + "." + key
}

func name(where string) string {
	if where == "" {
		return "the manifest"
	}
	return where
}

func article(k kind) string {
	switch k {
	case kindObject, kindArray:
		return "an " + string(k)
	case kindNull, kindBool:
		return string(k)
	}
	return "a " + string(k)
}

func (d *document) manifest(root *node) *Manifest {
	m := new(Manifest)
	d.object("", root, map[string]field{
		"skill_id":    {`add "skill_id": "<name>"`, d.matching(&m.SkillID, skillIDSyntax(), 128, `letters, digits and . _ -, with / between parts, such as "acme/weather"`)},
		"version":     {`add "version": "1.0.0"`, d.matching(&m.Version, versionSyntax(), 64, `letters, digits and . + _ -, such as "1.0.0"`)},
		"permissions": {`add "permissions": {}, which asks for nothing`, func(w string, n *node) { d.permissions(w, n, &m.Asks) }},
		"hashes":      {"", func(w string, n *node) { m.Hashes = d.hashes(w, n) }},
		"signature":   {"", func(w string, n *node) { m.Signature = d.signature(w, n) }},
	})
	return m
}

func (d *document) permissions(where string, n *node, p *Permissions) {
	d.object(where, n, map[string]field{
		"exec": {"", d.list(&p.Exec, listExec)},
		"filesystem": {"", func(w string, n *node) {
			p.Filesystem = new(Filesystem)
			d.object(w, n, map[string]field{
				"read":  {"", d.list(&p.Filesystem.Read, listRead)},
				"write": {"", d.list(&p.Filesystem.Write, listWrite)},
			})
		}},
		"network": {"", func(w string, n *node) {
			p.Network = new(Network)
			d.object(w, n, map[string]field{"egress": {"", d.list(&p.Network.Egress, listEgress)}})
		}},
	})
}

func (d *document) signature(where string, n *node) *Signature {
	s := new(Signature)
	d.object(where, n, map[string]field{
		"algorithm": {`add "algorithm": "Ed25519"`, d.text(&s.Algorithm)},
		"signed_by": {"name the signer, as its .pub file is called", d.text(&s.SignedBy)},
		"value":     {"sign it: raypher manifest sign", d.text(&s.Value)},
		"covers":    {"", func(w string, n *node) { s.Covers = d.covers(w, n) }},
	})
	return s
}

// text reads a string that is not empty.
func (d *document) text(to *string) func(string, *node) {
	return func(where string, n *node) {
		switch {
		case n.kind != kindString:
			d.problem(n, "put it in double quotes", "%s is %s, it must be a string", where, article(n.kind))
		case n.text == "":
			d.problem(n, "", "%s is empty", where)
		default:
			*to = n.text
		}
	}
}

func (d *document) matching(to *string, syntax *regexp.Regexp, longest int, fix string) func(string, *node) {
	read := d.text(to)
	return func(where string, n *node) {
		read(where, n)
		if n.kind == kindString && n.text != "" && (len(n.text) > longest || !syntax.MatchString(n.text)) {
			d.problem(n, fix, "%s %q is not well formed", where, n.text)
		}
	}
}

// list reads a list of permissions and checks each by the rules of the policy language.
func (d *document) list(to *[]string, of listKind) func(string, *node) {
	return func(where string, n *node) {
		if n.kind != kindArray {
			d.problem(n, `write ["…"]`, "%s is %s, it must be a list", where, article(n.kind))
			return
		}
		if len(n.elements) > maxPatterns {
			d.problem(n, "use patterns instead of single items", "%s has %d items, more than %d", where, len(n.elements), maxPatterns)
			return
		}
		*to = make([]string, 0, len(n.elements))
		for i, e := range n.elements {
			var item string
			d.text(&item)(fmt.Sprintf("%s[%d]", where, i), e)
			if item == "" {
				continue
			}
			if problem, fix := of.check(item); problem != "" {
				d.problem(e, fix, "%s[%d] %q: %s", where, i, item, problem)
			}
			*to = append(*to, item)
		}
	}
}

func (d *document) hashes(where string, n *node) map[string]string {
	if n.kind != kindObject {
		d.problem(n, "", "%s is %s, it must be an object of path and digest", where, article(n.kind))
		return nil
	}
	hashes := make(map[string]string, len(n.members))
	for _, m := range n.members {
		if problem, fix := checkHashedPath(m.key); problem != "" {
			d.problems.add(m.line, m.col, fmt.Sprintf("%s: path %q %s", where, m.key, problem), fix)
		}
		var digest string
		d.text(&digest)(fmt.Sprintf("%s[%q]", where, m.key), m.value)
		if digest != "" && !digestSyntax().MatchString(digest) {
			d.problem(m.value, `write "sha256:" and 64 lower-case hex digits`, "%s[%q] is not a SHA-256 digest", where, m.key)
		}
		hashes[m.key] = digest
	}
	return hashes
}

// checkHashedPath says what is wrong with a key of hashes: anything that is not the one plain way to name a file inside the
// skill's folder.
func checkHashedPath(p string) (problem, fix string) {
	switch {
	case p == "":
		return "is empty", "name a file below the manifest's folder"
	case strings.HasPrefix(p, "/"):
		return "is absolute", "name files relative to the manifest's folder"
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "leaves the folder", "only files below the manifest's folder belong to the skill"
	case path.Clean(p) != p || p == ".":
		return "is not in its plain form", fmt.Sprintf("write %q", path.Clean(p))
	case p == FileName:
		return "is the manifest itself", "remove it: the signature covers the manifest"
	case strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return "has control characters", "rename the file"
	}
	return "", ""
}

func (d *document) covers(where string, n *node) map[string][]string {
	if n.kind != kindObject {
		d.problem(n, "sign again: raypher manifest sign", "%s is %s, it must be an object", where, article(n.kind))
		return nil
	}
	covers := make(map[string][]string, len(n.members))
	for _, m := range n.members {
		if m.value.kind != kindArray {
			d.problem(m.value, "sign again: raypher manifest sign", "%s.%s is %s, it must be a list", where, m.key, article(m.value.kind))
			continue
		}
		list := make([]string, len(m.value.elements))
		for i, e := range m.value.elements {
			d.text(&list[i])(fmt.Sprintf("%s.%s[%d]", where, m.key, i), e)
		}
		covers[m.key] = list
	}
	return covers
}

// Canonical returns the RFC 8785 form of the document without signature.value: what the signature covers, after its prefix.
func (m *Manifest) Canonical() ([]byte, error) {
	unsigned := *m
	if m.Signature != nil {
		s := *m.Signature
		s.Value = ""
		unsigned.Signature = &s
	}
	text, err := encode(&unsigned, "")
	if err != nil {
		return nil, err
	}
	canonical, err := jcs.Transform(text)
	if err != nil {
		return nil, fmt.Errorf("canonical form of the manifest: %w", err)
	}
	return canonical, nil
}

// Encode returns the document as a file to read and edit: indented, ending in a newline.
func (m *Manifest) Encode() ([]byte, error) { return encode(m, "  ") }

func encode(m *Manifest, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	return b.Bytes(), nil
}
