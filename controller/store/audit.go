package store

import "time"

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
