package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of one path pattern. They keep what a hostile file can cost small; no honest pattern comes near them.
const (
	maxPatternBytes        = 4096 // PATH_MAX
	maxPatternAlternatives = 256  // patterns that the braces of one pattern stand for
	maxBraceDepth          = 8
)

// pattern is one path pattern without braces: a pattern with braces is several of these. A path matches when its components
// match one after the other; a deep component matches any number of them, also none.
type pattern struct {
	home       bool // starts at ~ instead of /
	components []component
}

// component matches one path component, or any number of them when deep.
type component struct {
	deep    bool
	literal string  // without wildcards; empty when deep or when glob is set
	glob    []piece // with wildcards
}

// piece is a part of a component: a literal, or a wildcard.
type piece struct {
	kind    pieceKind
	literal string // of pieceLiteral
}

type pieceKind uint8

const (
	pieceLiteral pieceKind = iota
	pieceOne               // ?: one character
	pieceStar              // *: any characters, also none
)

// lexeme is one unit of a pattern's text: a literal character, or one of the signs / ? * { , } and ** (deep).
type lexeme struct {
	kind lexemeKind
	char rune
}

type lexemeKind uint8

const (
	lexChar lexemeKind = iota
	lexSlash
	lexOne
	lexStar
	lexDeep
	lexOpen
	lexComma
	lexClose
)

// parsePattern reads one pattern of the language: absolute or starting with ~; * and ? stay within a component; ** as a whole
// component crosses them; {a,b} are alternatives, which may nest and may contain /; \ takes the next sign literally.
func parsePattern(text string) ([]pattern, *fault) {
	home, rest, f := patternRoot(text)
	if f != nil {
		return nil, f
	}
	lexemes, f := lexPattern(rest)
	if f != nil {
		return nil, f
	}
	alternatives, f := expandBraces(lexemes)
	if f != nil {
		return nil, faultf(f.Fix, "path %q: %s", text, f.Message)
	}
	patterns := make([]pattern, 0, len(alternatives))
	for _, alternative := range alternatives {
		components, f := splitComponents(alternative)
		if f != nil {
			return nil, faultf(f.Fix, "path %q: %s", text, f.Message)
		}
		patterns = append(patterns, pattern{home: home, components: components})
	}
	return patterns, nil
}

// patternRoot checks what must hold for the whole text and takes ~ off.
func patternRoot(text string) (home bool, rest string, f *fault) {
	switch {
	case text == "":
		return false, "", faultf("write an absolute path", "empty path")
	case len(text) > maxPatternBytes:
		return false, "", faultf("no path on this system is that long", "path of %d bytes, at most %d", len(text), maxPatternBytes)
	case !utf8.ValidString(text):
		return false, "", faultf("write the name in UTF-8, or match it with *", "path %q is not UTF-8", text)
	}
	for _, r := range text {
		if r < 0x20 || r == 0x7f {
			return false, "", faultf("match it with ?", "path %q has a control character", text)
		}
	}
	switch {
	case text == "~" || strings.HasPrefix(text, "~/"):
		return true, text[1:], nil
	case text[0] == '~':
		return false, "", faultf("write the home folder of that user as an absolute path; ~ is the agent's own", "path %q: ~user is not known here", text)
	case strings.HasPrefix(text, "$HOME"):
		return false, "", faultf(fmt.Sprintf("write %q", "~"+strings.TrimPrefix(text, "$HOME")), "path %q: variables are not expanded", text)
	case text[0] != '/':
		return false, "", faultf(fmt.Sprintf("write %q, or start with ~/ for the home folder", "/"+strings.TrimPrefix(text, "./")), "path %q is relative", text)
	}
	return false, text, nil
}

// lexPattern turns text into lexemes. Outside braces a comma is an ordinary character.
func lexPattern(text string) ([]lexeme, *fault) {
	lexemes := make([]lexeme, 0, len(text))
	depth := 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		i += size
		unit := lexeme{kind: lexChar, char: r}
		switch r {
		case '/':
			unit.kind = lexSlash
		case '?':
			unit.kind = lexOne
		case '*':
			unit.kind = lexStar
			if strings.HasPrefix(text[i:], "*") {
				unit.kind = lexDeep
				i++
			}
			if strings.HasPrefix(text[i:], "*") {
				return nil, faultf("write * within a name, ** as a whole component", "path %q: three stars", text)
			}
		case '[', ']':
			return nil, faultf(fmt.Sprintf(`write \%c for the character itself, {a,b} for alternatives`, r), "path %q: %c has no meaning in a pattern", text, r)
		case '{':
			unit.kind = lexOpen
			if depth++; depth > maxBraceDepth {
				return nil, faultf("write several patterns", "path %q: braces nest deeper than %d", text, maxBraceDepth)
			}
		case '}':
			unit.kind = lexClose
			if depth--; depth < 0 {
				return nil, faultf(`write \} for the character itself`, "path %q: } without {", text)
			}
		case ',':
			if depth > 0 {
				unit.kind = lexComma
			}
		case '\\':
			if i == len(text) || !strings.ContainsRune(`*?{},[]\~`, rune(text[i])) {
				return nil, faultf(`write \\ for a backslash; \ makes one of * ? { } , [ ] \ ~ ordinary`, "path %q: \\ before nothing special", text)
			}
			unit.char = rune(text[i])
			i++
		}
		lexemes = append(lexemes, unit)
	}
	if depth > 0 {
		return nil, faultf(`close it with }, or write \{ for the character itself`, "path %q: { without }", text)
	}
	return lexemes, nil
}

// expandBraces returns the sequences without braces that lexemes stand for.
func expandBraces(lexemes []lexeme) ([][]lexeme, *fault) {
	expanded, rest, f := expandUntil(lexemes, false)
	if f == nil && len(rest) != 0 {
		f = faultf("", "unbalanced braces")
	}
	return expanded, f
}

// expandUntil expands up to the end, or inside braces up to their closing brace, and returns what follows.
func expandUntil(lexemes []lexeme, inside bool) (done [][]lexeme, rest []lexeme, f *fault) {
	current := [][]lexeme{nil}
	for len(lexemes) > 0 {
		head := lexemes[0]
		switch {
		case head.kind == lexOpen:
			inner, after, f := expandUntil(lexemes[1:], true)
			if f != nil {
				return nil, nil, f
			}
			if current, f = crossJoin(current, inner); f != nil {
				return nil, nil, f
			}
			lexemes = after
			continue
		case inside && head.kind == lexComma:
			done = append(done, current...)
			current = [][]lexeme{nil}
		case inside && head.kind == lexClose:
			done = append(done, current...)
			return done, lexemes[1:], tooManyAlternatives(len(done))
		default:
			for i := range current {
				current[i] = append(current[i], head)
			}
		}
		lexemes = lexemes[1:]
	}
	return append(done, current...), nil, nil
}

func tooManyAlternatives(n int) *fault {
	if n > maxPatternAlternatives {
		return faultf("write several patterns, or use *", "braces stand for more than %d patterns", maxPatternAlternatives)
	}
	return nil
}

// crossJoin appends each of tails to each of heads.
func crossJoin(heads, tails [][]lexeme) ([][]lexeme, *fault) {
	if f := tooManyAlternatives(len(heads) * len(tails)); f != nil {
		return nil, f
	}
	joined := make([][]lexeme, 0, len(heads)*len(tails))
	for _, head := range heads {
		for _, tail := range tails {
			sequence := make([]lexeme, 0, len(head)+len(tail))
			joined = append(joined, append(append(sequence, head...), tail...))
		}
	}
	return joined, nil
}

// splitComponents makes the components of a sequence without braces. Empty components and . fall away, as in a path.
func splitComponents(lexemes []lexeme) ([]component, *fault) {
	var components []component
	for len(lexemes) > 0 {
		end := 0
		for end < len(lexemes) && lexemes[end].kind != lexSlash {
			end++
		}
		c, f := makeComponent(lexemes[:end])
		if f != nil {
			return nil, f
		}
		afterDeep := len(components) > 0 && components[len(components)-1].deep
		if drop := c.literal == "." || (!c.deep && c.literal == "" && c.glob == nil) || (c.deep && afterDeep); !drop {
			components = append(components, c)
		}
		lexemes = lexemes[min(end+1, len(lexemes)):]
	}
	return components, nil
}

func makeComponent(lexemes []lexeme) (component, *fault) {
	var glob []piece
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			glob = append(glob, piece{kind: pieceLiteral, literal: literal.String()})
			literal.Reset()
		}
	}
	wild := false
	for _, unit := range lexemes {
		switch unit.kind {
		case lexDeep:
			if len(lexemes) > 1 {
				return component{}, faultf("write * within a name, ** as a whole component, as in /a/**/b", "** beside other characters")
			}
			return component{deep: true}, nil
		case lexStar, lexOne:
			wild = true
			flush()
			kind := pieceOne
			if unit.kind == lexStar {
				kind = pieceStar
				if len(glob) > 0 && glob[len(glob)-1].kind == pieceStar {
					continue // {a,*}* makes two in a row
				}
			}
			glob = append(glob, piece{kind: kind})
		default:
			literal.WriteRune(unit.char)
		}
	}
	if !wild {
		if literal.String() == ".." {
			return component{}, faultf("write the path that it leads to", ".. leads elsewhere")
		}
		return component{literal: literal.String()}, nil
	}
	flush()
	return component{glob: glob}, nil
}

// cleanPattern is the canonical text of a pattern that parsePattern accepts: no empty component, no ., no ** after **, no
// slash at the end. It never changes what matches.
func cleanPattern(text string) string {
	for {
		before := len(text)
		text = strings.ReplaceAll(text, "//", "/")
		text = strings.ReplaceAll(text, "/./", "/")
		text = strings.ReplaceAll(text, "/**/**/", "/**/")
		text = strings.TrimSuffix(text, "/.")
		if strings.HasSuffix(text, "/**/**") {
			text = strings.TrimSuffix(text, "/**")
		}
		if text != "/" {
			text = strings.TrimSuffix(text, "/")
		}
		if text == "" {
			text = "/"
		}
		if len(text) == before {
			return text
		}
	}
}

// quotePattern makes a path into a pattern that matches it alone.
func quotePattern(path string) string {
	if !strings.ContainsAny(path, `*?{},[]\`) {
		return path
	}
	var b strings.Builder
	for _, r := range path {
		if strings.ContainsRune(`*?{},[]\`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// matchGlob reports whether name matches the pieces of one component. It takes at most len(name) times len(glob) steps: after
// a mismatch only the last star can take one more character.
func matchGlob(glob []piece, name string) bool {
	p, n := 0, 0
	starPiece, starName := -1, 0
	for {
		if p < len(glob) && glob[p].kind == pieceStar {
			starPiece, starName = p, n
			p++
			continue
		}
		if p == len(glob) && n == len(name) {
			return true
		}
		if width, ok := matchPiece(glob, p, name[n:]); ok {
			p, n = p+1, n+width
			continue
		}
		if starPiece < 0 || starName == len(name) {
			return false
		}
		_, width := utf8.DecodeRuneInString(name[starName:])
		starName += width
		p, n = starPiece+1, starName
	}
}

// matchPiece matches one literal or ? at the start of name and returns how many bytes it took. A byte that is not UTF-8 is
// one character.
func matchPiece(glob []piece, p int, name string) (width int, ok bool) {
	if p == len(glob) {
		return 0, false
	}
	if glob[p].kind == pieceLiteral {
		return len(glob[p].literal), strings.HasPrefix(name, glob[p].literal)
	}
	_, width = utf8.DecodeRuneInString(name)
	return width, width > 0
}
