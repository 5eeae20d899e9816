package draft

import (
	"strings"
)

// Names that a program makes up differ at every run. What of a name looks made up becomes a *:
//
//   - a UUID; eight or more hexadecimal digits with one 0-9 among them; five or more decimal digits;
//   - a version of three or more numbers: 1.22.3;
//   - the random part of a temporary name: behind . - _ or at the end, six or more letters and digits with upper case, lower case and
//     digits among them; in folders for temporary files, and in names with tmp or temp in them, two of the three are enough, and a
//     number needs two digits.
//
// A program that is executed, and what is risky, keeps its name.

// generalise returns the pattern of one name. temporary: it lies in a folder for temporary files.
func generalise(name string, temporary bool) string {
	lower := strings.ToLower(name)
	temporary = temporary || strings.Contains(lower, "tmp") || strings.Contains(lower, "temp")
	made := make([]bool, len(name))
	markUUIDs(name, made)
	markVersions(name, made)
	markRuns(name, made, temporary)
	markRandom(name, made, temporary)
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

// markRandom marks the random part of a temporary name: a run of letters and digits that is the last but for an extension, without
// what a program puts before it (tmp, temp, sed).
func markRandom(name string, made []bool, temporary bool) {
	runs(name, func(c byte) bool { return isAlnum(c) || temporary && c == '_' }, func(from, to int) {
		if temporary {
			for _, before := range []string{"tmp", "temp", "Tmp", "Temp", "TMP"} {
				if at := strings.LastIndex(name[from:to], before); at >= 0 && to-from-at-len(before) >= 6 {
					from += at + len(before)
					break
				}
			}
			if at := strings.LastIndexByte(name[from:to], '_'); at >= 0 && to-from-at-1 >= 6 {
				from += at + 1
			}
		}
		if to-from < 6 || made[from] {
			return
		}
		var digits, lowers, uppers int
		for i := from; i < to; i++ {
			switch c := name[i]; {
			case isDigit(c):
				digits = 1
			case isLower(c):
				lowers = 1
			case isUpper(c):
				uppers = 1
			}
		}
		classes := digits + lowers + uppers
		if (classes == 3 || temporary && classes == 2) && !word(name[from:to]) {
			mark(made, from, to)
		}
	})
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
