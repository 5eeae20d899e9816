package warden

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
)

// maxLines is how many lines may wait for a slow terminal. Further ones are counted and said.
const maxLines = 1024

// Lines prints one line for each verdict, for the person at the terminal. A slow reader delays nobody.
type Lines struct {
	json, color bool
	out         io.Writer

	mutex   sync.Mutex
	waiting []string
	dropped int
	seen    repeats
	wake    chan struct{}
	flush   chan chan struct{}
	stop    chan struct{}
	done    chan struct{}
}

// NewLines prints to out until Close.
func NewLines(out io.Writer, asJSON, color bool) *Lines {
	l := &Lines{
		json: asJSON, color: color, out: out, seen: repeats{},
		wake: make(chan struct{}, 1), flush: make(chan chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go l.write()
	return l
}

// Verdict prints one verdict. In words, one that was printed before is counted and said again seldom, and calls that programs only
// try (package broker, absent) are left to the journal.
func (l *Lines) Verdict(v journal.Verdict) {
	if l.json {
		l.object(struct {
			Event string `json:"event"`
			journal.Verdict
			VisaID string `json:"visa_id,omitempty"` // in hexadecimal; hides the field of the verdict
		}{"verdict", v, hex.EncodeToString(v.VisaID)})
		return
	}
	if v.Decision == journal.Log && v.Layer == "seccomp" {
		return
	}
	l.mutex.Lock()
	line, print := l.seen.add(v, l.color, time.Now())
	l.mutex.Unlock()
	if print {
		l.add(line)
	}
}

// Say prints a sentence of the warden itself.
func (l *Lines) Say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if l.json {
		l.object(map[string]string{"event": "note", "note": text})
		return
	}
	l.add("raypher: " + text)
}

// object prints a line of JSON.
func (l *Lines) object(value any) {
	if line, err := json.Marshal(value); err == nil {
		l.add(string(line))
	}
}

func (l *Lines) add(line string) {
	l.mutex.Lock()
	if len(l.waiting) < maxLines {
		l.waiting = append(l.waiting, line)
	} else {
		l.dropped++
	}
	l.mutex.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Lines) take() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	var b strings.Builder
	for _, line := range l.waiting {
		b.WriteString(line + "\n")
	}
	if l.dropped > 0 {
		fmt.Fprintf(&b, "raypher: %d more lines were not printed: the terminal is too slow\n", l.dropped)
	}
	l.waiting, l.dropped = nil, 0
	return b.String()
}

func (l *Lines) write() {
	defer close(l.done)
	for {
		ending := false
		var written chan struct{}
		select {
		case <-l.wake:
		case written = <-l.flush:
		case <-l.stop:
			ending = true
		}
		if text := l.take(); text != "" {
			// Nobody can be told when the terminal is gone; verdicts are in the journal anyway.
			_, _ = io.WriteString(l.out, text)
		}
		if written != nil {
			close(written)
		}
		if ending {
			return
		}
	}
}

// Rest prints what waits, and how often what was counted came, and returns when that is written.
func (l *Lines) Rest() {
	l.mutex.Lock()
	rest := l.seen.rest()
	l.mutex.Unlock()
	for _, line := range rest {
		l.add(line)
	}
	written := make(chan struct{})
	select {
	case l.flush <- written:
		<-written
	case <-l.done:
	}
}

// Close is Rest, and the end.
func (l *Lines) Close() {
	l.Rest()
	close(l.stop)
	<-l.done
}

// Terminal colours (ECMA-48, SGR).
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

// FormatVerdict is one verdict in words, like
//
//	raypher: blocked open-read /home/u/.ssh/id_rsa (no rule grants it) [broker]
//
// What the agent chose (paths, names) is quoted where it could speak to the terminal or pass for another part of the line.
func FormatVerdict(v journal.Verdict, color bool) string {
	word, tint := v.Decision, ""
	switch v.Decision {
	case journal.Block:
		word, tint = "blocked", red
	case journal.WouldBlock:
		word, tint = "would block", yellow
	case journal.WouldAsk:
		word, tint = "would ask a person about", yellow
	case journal.Log:
		word = "logged"
	case journal.Allow:
		word = "allowed"
	}
	if color && tint != "" {
		word = tint + word + plain
	}
	reason := "no rule grants it"
	if v.Rule != "" {
		reason = "rule: " + printable(v.Rule)
	}
	if v.Decision == journal.Log || v.Layer == "seccomp" && v.Rule == "" {
		reason = ""
	}
	line := fmt.Sprintf("raypher: %s %s %s", word, v.Operation, printableTarget(v))
	if reason != "" {
		line += " (" + reason + ")"
	}
	if v.Errno != 0 {
		line += " " + unix.ErrnoName(unix.Errno(v.Errno))
	}
	line += " [" + v.Layer + "]"
	if v.Count > 1 {
		line += fmt.Sprintf(" %d times", v.Count)
	}
	return line
}

// printableTarget quotes a target in which the line's own separators occur, or a name that was asked for in the DNS. Kinds of
// sockets, addresses and what raypherd itself says of several targets are not the agent's words.
func printableTarget(v journal.Verdict) string {
	name, rest := v.Target, ""
	if at := strings.LastIndexByte(name, ' '); v.Layer == "dns" && at >= 0 {
		name, rest = name[:at], printable(name[at:])
	}
	if v.Operation == "socket" || !strings.ContainsAny(name, " ()[]\"'`\\") {
		return printable(name) + rest
	}
	if address, _, _ := strings.Cut(name, "/"); v.Layer != "broker" && (isAddress(address) || name[0] == '(') {
		return printable(name)
	}
	return strconv.Quote(name) + rest
}

// isAddress reports whether text is an IP address, with or without a port.
func isAddress(text string) bool {
	if _, err := netip.ParseAddrPort(text); err == nil {
		return true
	}
	_, err := netip.ParseAddr(text)
	return err == nil
}

// printable quotes text that is not made of printable characters alone.
func printable(text string) string {
	for _, r := range text {
		if !strconv.IsPrint(r) || r == '\uFFFD' {
			return strconv.Quote(text)
		}
	}
	return text
}
