package draft

import (
	"slices"
	"strings"
)

// Names that a program makes up differ at every run. What of a name looks made up becomes a *:
//
//   - a UUID; eight or more hexadecimal digits with one 0-9 among them; five or more decimal digits;
//   - a version of three or more numbers: 1.22.3;
//   - a part of six or more letters and digits with upper case, lower case and digits among them, that does not read like a word;
//   - the random part of a temporary name, by which evidence there is that it is one: what lies right in a folder for temporary files,
//     has tmp or temp in its name, or was made and taken away again in the same run. It is the last part of the name but for an
//     extension, and what follows the new name where it was renamed to the beginning of itself. The more evidence there is, the less
//     random it must look.
//
// A program that is executed, and what is risky, keeps its name.

// about is what is known of a name beside itself.
type about struct {
	temporary bool   // it lies right in a folder for temporary files
	vanished  bool   // it was made and taken away in the same run
	became    string // what it was renamed to after it had been made; empty: it was not
}

// generalise returns the pattern of one name.
func generalise(name string, a about) string {
	made := make([]bool, len(name))
	markUUIDs(name, made)
	markVersions(name, made)
	markTemporary(name, made, a)
	markRuns(name, made, a.temporary || called(name))
	markRandom(name, made)
	var b strings.Builder
	for i := 0; i < len(name); {
		end := i
		for end < len(name) && made[end] == made[i] {
			end++
		}
		if made[i] {
			b.WriteByte('*')
		} else {
			b.WriteString(escape(name[i:end]))
		}
		i = end
	}
	return b.String()
}

// called reports whether a name says that it is temporary.
func called(name string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "tmp") || strings.Contains(name, "temp")
}

func mark(made []bool, from, to int) {
	for i := from; i < to; i++ {
		made[i] = true
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }
func isHex(c byte) bool   { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }
func isAlnum(c byte) bool { return isDigit(c) || isLower(c) || isUpper(c) }

// runs calls each for every longest run of characters that are in the class.
func runs(name string, class func(byte) bool, each func(from, to int)) {
	for i := 0; i < len(name); {
		end := i
		for end < len(name) && class(name[end]) {
			end++
		}
		if end > i {
			each(i, end)
		}
		i = max(end, i+1)
	}
}

// markUUIDs marks 8-4-4-4-12 hexadecimal digits (RFC 9562).
func markUUIDs(name string, made []bool) {
	const length = 36
	for i := 0; i+length <= len(name); i++ {
		uuid := true
		for j := range length {
			dash := j == 8 || j == 13 || j == 18 || j == 23
			uuid = uuid && (dash && name[i+j] == '-' || !dash && isHex(name[i+j]))
		}
		if uuid {
			mark(made, i, i+length)
			i += length - 1
		}
	}
}

// markVersions marks numbers with two dots or more between them.
func markVersions(name string, made []bool) {
	runs(name, func(c byte) bool { return isDigit(c) || c == '.' }, func(from, to int) {
		for from < to && name[from] == '.' {
			from++
		}
		for to > from && name[to-1] == '.' {
			to--
		}
		text := name[from:to]
		if strings.Count(text, ".") >= 2 && !strings.Contains(text, "..") {
			mark(made, from, to)
		}
	})
}

// markRuns marks long runs of digits, decimal and hexadecimal.
func markRuns(name string, made []bool, temporary bool) {
	enough := 5
	if temporary {
		enough = 2
	}
	runs(name, isDigit, func(from, to int) {
		if to-from >= enough && !(from > 0 && isAlnum(name[from-1]) && to-from < 5) {
			mark(made, from, to)
		}
	})
	runs(name, isAlnum, func(from, to int) {
		digits := false
		for i := from; i < to; i++ {
			if !isHex(name[i]) {
				return
			}
			digits = digits || isDigit(name[i])
		}
		if to-from >= 8 && digits {
			mark(made, from, to)
		}
	})
}

// markRandom marks parts of letters and digits that nobody would type.
func markRandom(name string, made []bool) {
	runs(name, isAlnum, func(from, to int) {
		if to-from >= 6 && !slices.Contains(made[from:to], true) && classes(name[from:to]) == 3 && !word(name[from:to]) {
			mark(made, from, to)
		}
	})
}

// markTemporary marks the random part of a temporary name.
func markTemporary(name string, made []bool, a about) {
	if rest, ok := strings.CutPrefix(name, a.became); ok && a.became != "" && len(rest) >= 5 && classes(rest) >= 2 {
		mark(made, len(a.became), len(name))
		return
	}
	evidence := 0
	for _, one := range []bool{a.temporary, called(name), a.vanished, a.became != ""} {
		if one {
			evidence++
		}
	}
	if evidence == 0 {
		return
	}
	if at := ofPython(name, a); at >= 0 {
		mark(made, at, len(name))
		return
	}
	from, to, ok := lastPart(name)
	if to < len(name) {
		evidence = 1 // before an extension stands what a person may have written
	}
	if ok && random(name[from:to], from == 0, evidence) {
		if whole := from == 0 && to-from > 8; whole {
			from = to - 6 // mkstemp(3) puts six behind what it is given
		}
		mark(made, from, to)
	}
}

// ofPython finds the random part of a name by Python's tempfile, which has _ among its letters: eight of them, behind tmp or, where it
// tries whether a folder can be used, alone. -1: it is none.
func ofPython(name string, a about) int {
	at := len(name) - 8
	if at < 0 || strings.Trim(name[at:], "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return -1
	}
	if at == 0 && a.temporary && a.vanished || name[:at] == "tmp" && (a.temporary || a.vanished) {
		return at
	}
	return -1
}

// random reports whether the last part of a name looks random enough for the evidence. whole: it has no other part.
func random(part string, whole bool, evidence int) bool {
	usual := len(part) == 6 || len(part) == 8 || len(part) == 10 // mkstemp(3), Python's tempfile, mktemp(1)
	mixed := classes(part) >= 2
	switch {
	case whole && len(part) > 8:
		return evidence >= 2 || mixed && !word(part)
	case usual && evidence >= 2:
		return true
	case usual && !whole:
		return mixed
	}
	return mixed && !word(part)
}

// lastPart finds the last six or more letters and digits, before an extension or at the end, without a tmp in front of them.
func lastPart(name string) (from, to int, ok bool) {
	to = len(name)
	for range 3 { // of the longest kind: ccXXXXXX.cdtor.o
		from = to
		for from > 0 && isAlnum(name[from-1]) {
			from--
		}
		if rest, ok := strings.CutPrefix(name[from:to], "tmp"); ok && len(rest) >= 6 {
			from += len("tmp")
		}
		if to-from >= 6 {
			return from, to, true
		}
		if from == 0 || name[from-1] != '.' || from == to {
			return 0, 0, false
		}
		to = from - 1
	}
	return 0, 0, false
}

// classes is how many of lower case, upper case and digits are in a text.
func classes(text string) int {
	var digits, lowers, uppers int
	for i := range len(text) {
		switch c := text[i]; {
		case isDigit(c):
			digits = 1
		case isLower(c):
			lowers = 1
		case isUpper(c):
			uppers = 1
		}
	}
	return digits + lowers + uppers
}

// word reports whether letters and digits read like a word: one capital at most, in front, and digits only at the end.
func word(text string) bool {
	text = strings.TrimRight(text, "0123456789")
	for i := range len(text) {
		if isDigit(text[i]) || isUpper(text[i]) && i > 0 {
			return false
		}
	}
	return len(text) > 0
}

// isFanOut reports whether a folder's name is the beginning of hashes that lie in it: two hexadecimal digits.
func isFanOut(name string) bool { return len(name) == 2 && isHex(name[0]) && isHex(name[1]) }
