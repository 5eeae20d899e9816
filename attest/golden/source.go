package golden

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/internal/strictyaml"
)

// ParseSource reads the YAML form of a list; name is the file's name for messages. The error has all mistakes with their
// places (strictyaml.Errors). Values are hexadecimal, one or a list for each PCR; times are RFC 3339 in quotes. Without times of its
// own a set has the list's.
func ParseSource(name string, text []byte) (*List, error) {
	file := strictyaml.File{Name: name, What: "list of golden measurements", Empty: "begin one with `raypher attest golden add`", Limit: MaxFile}
	r, root, err := strictyaml.Load(file, text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	l := decoder{r}.list(root)
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := l.check(); err != nil { // the decoder says the same mistakes with their places
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	return l, nil
}

// decoder turns YAML nodes into a List.
type decoder struct{ *strictyaml.Reader }

type (
	place  = strictyaml.Place
	node   = strictyaml.Node
	fields = map[string]func(place, *node)
)

func (d decoder) list(n *node) *List {
	l := &List{NotBefore: time.Unix(0, 0)}
	var version *uint64
	var hasVersion, hasEnd bool
	var sets *node
	d.Fields("", n, fields{
		"version":    func(at place, n *node) { hasVersion = true; d.Number(at, n, &version) },
		"not_before": func(at place, n *node) { d.time(at, n, &l.NotBefore) },
		"not_after":  func(at place, n *node) { hasEnd = true; d.time(at, n, &l.NotAfter) },
		"sets":       func(_ place, n *node) { sets = n },
	})
	if version != nil {
		l.Version = *version
	}
	d.must(hasVersion && (version == nil || l.Version > 0), "version", "use a number from 1, larger than the last one", "no version, or 0")
	d.must(hasEnd, "not_after", `write the last moment, as in "2027-01-31T00:00:00Z"`, "the list has no end")
	d.must(l.NotAfter.IsZero() || !l.NotAfter.Before(l.NotBefore), "not_after", "", "the list ends before it begins")
	if sets != nil {
		d.Each("sets", sets, func(at place, n *node) { l.Sets = append(l.Sets, d.set(at, n, l)) })
	}
	d.must(len(l.Sets) > 0 && len(l.Sets) <= MaxSets, "sets", "add one with `raypher attest golden add`", "%d sets, expected 1 to %d", len(l.Sets), MaxSets)
	names := map[string]bool{}
	for i, s := range l.Sets {
		d.must(!names[s.Name] || s.Name == "", place("sets").Item(i)+".name", "names are unique in a list", "a second set %q", s.Name)
		names[s.Name] = true
	}
	return l
}

func (d decoder) set(at place, n *node, l *List) *Set {
	s := &Set{NotBefore: l.NotBefore, NotAfter: l.NotAfter}
	var bankName string
	var pcrs *node
	d.Fields(at, n, fields{
		"name":       func(at place, n *node) { d.name(at, n, &s.Name) },
		"version":    func(at place, n *node) { d.name(at, n, &s.Version) },
		"tier":       func(at place, n *node) { d.Text(at, n, &s.Tier) },
		"bank":       func(at place, n *node) { d.Text(at, n, &bankName) },
		"not_before": func(at place, n *node) { d.time(at, n, &s.NotBefore) },
		"not_after":  func(at place, n *node) { d.time(at, n, &s.NotAfter) },
		"pcrs":       func(_ place, n *node) { pcrs = n },
	})
	d.must(s.Name != "", at+".name", "give the set a name", "no name")
	b, known := banks[s.Tier]
	d.must(known, at+".tier", "use "+strings.Join(slices.Sorted(maps.Keys(banks)), " or "), "tier %q", strictyaml.Shorten(s.Tier))
	d.must(s.NotAfter.IsZero() || !s.NotAfter.Before(s.NotBefore), at+".not_after", "", "the set ends before it begins")
	if !known {
		return s // what the rest should be is not known
	}
	d.must(bankName == b.name, at+".bank", "PCRs of tier "+s.Tier+" are of bank "+b.name, "bank %q", strictyaml.Shorten(bankName))
	if pcrs != nil {
		d.Mapping(at+".pcrs", pcrs, func(key string, at place, n *node) {
			if r, ok := d.register(key, at, n, b); ok {
				d.must(!slices.ContainsFunc(s.PCRs, func(o Register) bool { return o.Index == r.Index }), at, "give it a list of values", "PCR %d stands twice", r.Index)
				s.PCRs = append(s.PCRs, r)
			}
		})
	}
	d.must(pcrs != nil && len(pcrs.Content) > 0, at+".pcrs", "write lines `PCR7: HEX` or `PCR7: [HEX, HEX]`", "no PCRs, which every machine matches")
	slices.SortFunc(s.PCRs, func(x, y Register) int { return int(x.Index) - int(y.Index) })
	return s
}

func (d decoder) register(key string, at place, n *node, b bank) (Register, bool) {
	digits, found := strings.CutPrefix(key, "PCR")
	index, err := strconv.ParseUint(digits, 10, 8)
	if !found || err != nil || index >= b.count || digits != strconv.FormatUint(index, 10) {
		d.Report(at.Key(), strictyaml.Faultf(fmt.Sprintf("use PCR0 to PCR%d", b.count-1), "%q", strictyaml.Shorten(key)))
		return Register{}, false
	}
	var words []string
	if len(n.Content) == 0 && n.Value != "" {
		var word string
		if !d.Text(at, n, &word) {
			return Register{Index: index}, true
		}
		words = []string{word}
	} else {
		d.List(at, n, &words, strictyaml.Items{})
	}
	d.must(len(words) > 0 && len(words) <= MaxValues, at, "", "%d values, expected 1 to %d", len(words), MaxValues)
	r := Register{Index: index}
	for i, word := range words {
		where := at
		if n.Value == "" {
			where = at.Item(i)
		}
		value, err := hex.DecodeString(word)
		d.must(err == nil && len(value) == b.size, where, fmt.Sprintf("expected %d hexadecimal digits (%s)", 2*b.size, b.name), "%q", strictyaml.Shorten(word))
		r.Values = append(r.Values, value)
	}
	return r, true
}

// must reports what does not hold.
func (d decoder) must(holds bool, at place, fix, format string, args ...any) {
	if !holds {
		d.Report(at, strictyaml.Faultf(fix, format, args...))
	}
}

func (d decoder) name(at place, n *node, into *string) {
	if d.Text(at, n, into) && !goodText(*into) {
		d.Report(at, strictyaml.Faultf(fmt.Sprintf("use at most %d printable characters", MaxText), "%q", strictyaml.Shorten(*into)))
	}
}

func (d decoder) time(at place, n *node, into *time.Time) {
	const fix = `write it as in "2027-01-31T00:00:00Z", with the quotes`
	var text string
	if n.Value != "" && n.ShortTag() == "!!timestamp" {
		text = n.Value
	} else if !d.Text(at, n, &text) {
		return
	}
	value, err := time.Parse(time.RFC3339, text)
	if err != nil || value.Unix() < 0 || value.Nanosecond() != 0 {
		d.Report(at, strictyaml.Faultf(fix, "%q is no time", strictyaml.Shorten(text)))
		return
	}
	*into = value
}

// Source writes a list in YAML; parsing it again gives the same list.
func (l *List) Source() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "version: %d\nnot_before: %q\nnot_after: %q\nsets:\n", l.Version, stamp(l.NotBefore), stamp(l.NotAfter))
	for _, s := range l.Sets {
		fmt.Fprintf(&b, "  - name: %s\n", strconv.Quote(s.Name))
		if s.Version != "" {
			fmt.Fprintf(&b, "    version: %s\n", strconv.Quote(s.Version))
		}
		fmt.Fprintf(&b, "    tier: %s\n    bank: %s\n", s.Tier, banks[s.Tier].name)
		if !s.NotBefore.Equal(l.NotBefore) {
			fmt.Fprintf(&b, "    not_before: %q\n", stamp(s.NotBefore))
		}
		if !s.NotAfter.Equal(l.NotAfter) {
			fmt.Fprintf(&b, "    not_after: %q\n", stamp(s.NotAfter))
		}
		b.WriteString("    pcrs:\n")
		for _, r := range s.PCRs {
			if len(r.Values) == 1 {
				fmt.Fprintf(&b, "      PCR%d: %q\n", r.Index, hex.EncodeToString(r.Values[0]))
				continue
			}
			fmt.Fprintf(&b, "      PCR%d:\n", r.Index)
			for _, v := range r.Values {
				fmt.Fprintf(&b, "        - %q\n", hex.EncodeToString(v))
			}
		}
	}
	return []byte(b.String())
}
