package store

import (
	"errors"
	"fmt"
	"time"
)

// ErrBudget: a host asks for more than is put on record of it.
var ErrBudget = errors.New("too much to put on record")

// Outcome of an audited action that was done. Any other outcome is the check that failed, in words.
const OK = "ok"

// Entry is one line of the audit: who did what to whom, and how it ended. Numbers begin at 1 and have no gaps. The database
// refuses to change or delete entries.
type Entry struct {
	Number  uint64    // given by Audit
	Time    time.Time // given by Audit, to the millisecond
	Actor   string    // sha256:<hex> of the caller's key, or "controller"
	Action  string    // such as "attest", "secret.fetch"
	Subject string    // host, secret, release
	Outcome string
}

// maxField bounds each text of an entry; what is longer is cut.
const maxField = 1024

// Audit appends an entry. It holds if and only if the transaction does: write it in the one whose work it records. A refusal is
// recorded in a transaction of its own.
func (tx *Tx) Audit(e Entry) error {
	return tx.Exec(`INSERT INTO audit (number, time, actor, action, subject, outcome)
		SELECT COALESCE(MAX(number), 0) + 1, CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT) FROM audit`,
		Millis(time.Now()), clean(e.Actor), clean(e.Action), clean(e.Subject), clean(e.Outcome))
}

// MaxHostEntries is how many entries of one action a host may cause in an hour: many times what one that works needs, and no more than its
// part of a disk.
const MaxHostEntries = 2000

// AuditOf appends an entry that a host's enclave caused by what it asked for. ErrBudget: the host has caused MaxHostEntries of this action in
// this hour, so what is recorded must not be done either.
func (tx *Tx) AuditOf(host string, e Entry) error {
	var entries int
	err := tx.Get([]any{&entries}, `INSERT INTO host_budgets (host, action, hour, entries) VALUES (?, ?, ?, 1)
		ON CONFLICT (host, action) DO UPDATE SET
		entries = CASE WHEN excluded.hour > host_budgets.hour THEN 1 ELSE host_budgets.entries + 1 END,
		hour = CASE WHEN excluded.hour > host_budgets.hour THEN excluded.hour ELSE host_budgets.hour END
		RETURNING entries`, host, e.Action, time.Now().Unix()/3600)
	if err != nil {
		return err
	}
	if entries > MaxHostEntries {
		return fmt.Errorf("%w: %s caused %d entries of %s in this hour: it goes on with the next one", ErrBudget, host, MaxHostEntries, e.Action)
	}
	return tx.Audit(e)
}

// Entries returns at most limit entries from a number on, oldest first.
func (tx *Tx) Entries(from uint64, limit int) ([]Entry, error) {
	var entries []Entry
	err := tx.Each(func(scan func(...any) error) error {
		var e Entry
		var millis int64
		if err := scan(&e.Number, &millis, &e.Actor, &e.Action, &e.Subject, &e.Outcome); err != nil {
			return err
		}
		e.Time = Time(millis)
		entries = append(entries, e)
		return nil
	}, `SELECT number, time, actor, action, subject, outcome FROM audit WHERE number >= ? ORDER BY number LIMIT ?`, int64(min(from, 1<<63-1)), limit)
	return entries, err
}

// clean makes text out of what may come from outside: PostgreSQL takes neither NUL nor broken UTF-8, and a terminal no control characters.
func clean(text string) string {
	out := make([]rune, 0, min(len(text), maxField))
	for _, r := range text {
		if len(out) == maxField {
			break
		}
		if r < ' ' || r == 0x7f || r == 0xfffd || (r >= 0x80 && r < 0xa0) {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}
