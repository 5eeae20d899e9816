package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What gRPC says around the reason why a call went wrong.
var (
	statusWords     = regexp.MustCompile(`rpc error: code = \w+ desc = `)
	connectionWords = regexp.MustCompile(`(?:Unavailable: )?connection error: desc = "`)
	transportWords  = regexp.MustCompile(`^transport: (?:Error while dialing|authentication handshake failed): `)
)

// plainly is an error of gRPC, or several on lines of their own, in one line and without gRPC's own words and repetitions.
func plainly(text string) string {
	var said []string
	for _, line := range strings.Split(statusWords.ReplaceAllString(text, ""), "\n") {
		if line = reason(line); !slices.Contains(said, line) {
			said = append(said, line)
		}
	}
	return strings.Join(said, "; ")
}

// reason takes what gRPC quotes as the reason out of its quotation marks.
func reason(line string) string {
	at := connectionWords.FindStringIndex(line)
	if at == nil {
		return line
	}
	quoted, err := strconv.QuotedPrefix(line[at[1]-1:])
	if err != nil { // cut off, as too long
		return line
	}
	inner, err := strconv.Unquote(quoted)
	if err != nil {
		return line
	}
	return line[:at[0]] + transportWords.ReplaceAllString(inner, "") + reason(line[at[1]-1+len(quoted):])
}
