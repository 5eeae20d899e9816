// Package store is the controller's database: SQLite in one file, or PostgreSQL for replicas. The packages of the controller keep
// everything that must outlive a process here, so that any replica answers any step of any exchange.
//
// Transactions that write exclude each other, in both databases and over all replicas: they see the newest state, nothing changes
// under them, and none has to be written for conflicts. Readers do not wait for writers.
//
// Queries are written once, with ? for parameters, in the SQL that both databases take: text, BIGINT, BYTEA for bytes, times as
// BIGINT milliseconds since 1970, booleans as BIGINT 0 and 1; INSERT … ON CONFLICT, RETURNING. What differs is in dialect.go. Tables
// are made by the numbered files in migrations/, which are never changed once they were released: a change is a new file.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Limits. A transaction that takes longer than MaxDuration is given up, with everything that it did.
const (
	MaxDuration  = 10 * time.Second
	MaxAttempts  = 8  // of one transaction that the database asks to be repeated
	maxOpenConns = 16 // of one process, to PostgreSQL; SQLite has one for writing
)

// Errors that callers tell apart. Each is wrapped in the database's words.
var (
	// ErrUnavailable: the database does not answer, or not in time. Of a transaction that was being committed it is not known
	// whether it holds.
	ErrUnavailable = errors.New("the database does not answer")
	// ErrFull: there is no space for what was to be written; nothing of the transaction holds.
	ErrFull = errors.New("the database has no space left: free some on its volume")
	// ErrNewer: the database was used by a later version of this program.
	ErrNewer = errors.New("the database is of a later version of raypher-controller")
)

// DB is an open database. Its methods may be called from several goroutines.
type DB struct {
	dialect  dialect
	write    *sql.DB
	read     *sql.DB // the same as write, for PostgreSQL
	identity []byte
}

// Open opens the database that url names and brings its tables up to date: "postgres://…" as PostgreSQL's programs take it, or the
// path of a SQLite file, which is made with mode 0600 where it is missing. Several processes may do this at once. ctx bounds the opening alone.
func Open(ctx context.Context, url string) (*DB, error) {
	db, err := open(url)
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Close ends all connections. Transactions that are under way fail.
func (db *DB) Close() error {
	if db.read != db.write {
		db.read.Close()
	}
	return db.write.Close()
}

// Kind is "sqlite" or "postgresql".
func (db *DB) Kind() string { return db.dialect.name }

// Identity is 16 random bytes that were made together with the database: replicas of one database agree in it. A copy of the
// database has them too.
func (db *DB) Identity() []byte { return append([]byte(nil), db.identity...) }

// Update runs f in a transaction that excludes all other writers, and commits if f returns nil. Where the database asks for it f runs again, so
// that it must do nothing but work on tx and set what it returns. What f returns is returned as it is.
func (db *DB) Update(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, MaxDuration)
	defer cancel()
	var err error
	for attempt := range MaxAttempts {
		if err = db.once(ctx, db.write, false, f); err == nil || !db.dialect.again(err) {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(attempt+1) * 5 * time.Millisecond):
		}
	}
	return db.explain(err)
}

// View runs f in a transaction that sees one state of the database and cannot write.
func (db *DB) View(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, MaxDuration)
	defer cancel()
	return db.explain(db.once(ctx, db.read, true, f))
}

func (db *DB) once(ctx context.Context, pool *sql.DB, readOnly bool, f func(*Tx) error) error {
	begun, err := pool.BeginTx(ctx, db.dialect.options(readOnly))
	if err != nil {
		return &failure{err}
	}
	defer begun.Rollback() // after a commit: nothing
	tx := &Tx{ctx: ctx, tx: begun, dialect: db.dialect}
	if !readOnly && db.dialect.lock != "" {
		if err := tx.Exec(db.dialect.lock); err != nil {
			return err
		}
	}
	if err := f(tx); err != nil {
		return err
	}
	if err := begun.Commit(); err != nil {
		return &failure{err}
	}
	return nil
}

// failure is an error of the database itself, as opposed to one that the caller's function made.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// explain gives errors of the database a name. Others, and sql.ErrNoRows, stay as they are.
func (db *DB) explain(err error) error {
	var failed *failure
	switch {
	case err == nil || !errors.As(err, &failed):
		return err
	case db.dialect.full(err):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case db.dialect.wrong(err): // a mistake of this program, which no waiting mends
		return fmt.Errorf("database: %w", err)
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}

// Tx is a transaction. It is for one goroutine, and only within the function that it was given to.
type Tx struct {
	ctx     context.Context // bounds the transaction, as database/sql has it
	tx      *sql.Tx
	dialect dialect
}

// Exec runs a statement for its effect.
func (tx *Tx) Exec(query string, args ...any) error {
	_, err := tx.Change(query, args...)
	return err
}

// Change runs a statement and returns how many rows it changed.
func (tx *Tx) Change(query string, args ...any) (int64, error) {
	result, err := tx.tx.ExecContext(tx.ctx, tx.dialect.rewrite(query), args...)
	if err != nil {
		return 0, &failure{err}
	}
	rows, err := result.RowsAffected()
	if err != nil {
		return 0, &failure{err}
	}
	return rows, nil
}

// Get reads one row into dest. The error is sql.ErrNoRows, as it is, where there is none.
func (tx *Tx) Get(dest []any, query string, args ...any) error {
	err := tx.tx.QueryRowContext(tx.ctx, tx.dialect.rewrite(query), args...).Scan(dest...)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return &failure{err}
	}
	return err
}

// Each reads all rows: row is called for each with what reads it (as sql.Rows.Scan), and ends the reading with an error. It must not use tx.
func (tx *Tx) Each(row func(scan func(dest ...any) error) error, query string, args ...any) error {
	rows, err := tx.tx.QueryContext(tx.ctx, tx.dialect.rewrite(query), args...)
	if err != nil {
		return &failure{err}
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return &failure{err}
	}
	return nil
}

// Millis is how times are kept: milliseconds since 1970, 0 for the zero time.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is the opposite of Millis, in UTC.
func Time(millis int64) time.Time {
	if millis == 0 {
		return time.Time{}
	}
	return time.UnixMilli(millis).UTC()
}

// readIdentity makes the database's identity at its first opening.
func (db *DB) readIdentity(tx *Tx) error {
	err := tx.Get([]any{&db.identity}, `SELECT identity FROM database_identity`)
	if errors.Is(err, sql.ErrNoRows) {
		db.identity = make([]byte, identitySize)
		rand.Read(db.identity)
		err = tx.Exec(`INSERT INTO database_identity (one, identity) VALUES (1, ?)`, db.identity)
	}
	return err
}
