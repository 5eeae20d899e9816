package spend

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Bounds of a book.
const (
	keptDays = 62      // days that it remembers
	maxLines = 100_000 // lines; further ones are not remembered
)

// Key is what a line is about.
type Key struct {
	Day                               string // as 2026-11-23
	Namespace, Agent, Provider, Model string
}

// Line is what the calls of one agent of one model on one day came to, in micro-dollars and tokens.
type Line struct {
	Key
	Calls, Spent, Held, Tokens uint64
}

// Book adds calls up by day, agent and model. It reads each entry once, so the first question after a start reads the whole journal, and
// each further one what is new. It is safe for concurrent use.
type Book struct {
	journal Journal

	mu    sync.Mutex
	zone  *time.Location // of the days
	read  reading
	lines map[Key]*Line
}

// NewBook makes an empty one.
func NewBook(j Journal) *Book { return &Book{journal: j} }

// Lines are those of the days in a month, as 2026-11, in a time zone: the dearest first.
func (b *Book) Lines(ctx context.Context, month string, zone *time.Location) ([]Line, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.zone == nil || b.zone.String() != zone.String() { // other days
		b.zone, b.read, b.lines = zone, reading{}, map[Key]*Line{}
	}
	if err := b.read.on(ctx, b.journal, b.add); err != nil {
		b.zone = nil // what was read halfway is read again
		return nil, err
	}
	all := map[Key]Line{}
	for key, l := range b.lines {
		if len(key.Day) > len(month) && key.Day[:len(month)] == month {
			all[key] = *l
		}
	}
	for _, c := range b.read.open {
		if key := b.key(c); len(key.Day) > len(month) && key.Day[:len(month)] == month {
			l := all[key]
			l.Key, l.Held = key, l.Held+c.Worst
			all[key] = l
		}
	}
	var lines []Line
	for _, l := range all {
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(b.Spent+b.Held, a.Spent+a.Held), cmp.Compare(b.Day, a.Day), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Model, b.Model))
	})
	return lines, nil
}

func (b *Book) key(c *Call) Key {
	return Key{time.Unix(0, c.Began).In(b.zone).Format(time.DateOnly), c.Namespace, c.Agent, c.Provider, c.Model}
}

// add counts a call that has ended, on the day on which it began.
func (b *Book) add(c *Call) error {
	if c.Outcome == Withdrawn {
		return nil
	}
	key := b.key(c)
	l := b.lines[key]
	if l == nil {
		if len(b.lines) >= maxLines && !b.forget(key.Day) {
			return nil
		}
		l = &Line{Key: key}
		b.lines[key] = l
	}
	l.Calls++
	l.Spent += c.Spent
	l.Tokens += c.Used
	return nil
}

// forget drops days long before one; false: there were none.
func (b *Book) forget(day string) (some bool) {
	newest, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return false
	}
	oldest := newest.AddDate(0, 0, -keptDays).Format(time.DateOnly)
	for key := range b.lines {
		if key.Day < oldest {
			delete(b.lines, key)
			some = true
		}
	}
	return some
}
