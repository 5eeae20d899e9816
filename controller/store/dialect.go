package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// dialect is everything in which the databases differ.
type dialect struct {
	name    string
	lock    string // first statement of a transaction that writes; "": beginning it is enough
	options func(readOnly bool) *sql.TxOptions
	rewrite func(query string) string // from ? to what the database takes
	again   func(error) bool          // the transaction is to be repeated
	full    func(error) bool          // no space
	wrong   func(error) bool          // a mistake in the statement or its values
	protect []string                  // statements that make the audit table append-only; repeatable
}

// open knows by the url which database is meant.
func open(address string) (*DB, error) {
	if strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://") {
		return openPostgres(address)
	}
	if scheme, _, found := strings.Cut(address, "://"); found || address == "" {
		return nil, fmt.Errorf("database %q: unknown kind: give postgres://USER@HOST/NAME or the path of a SQLite file", scheme)
	}
	return openSQLite(address)
}

func openSQLite(path string) (*DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	// Made here for its mode, which the files beside it (-wal, -shm) inherit.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	file.Close()
	source := func(settings url.Values) string {
		return (&url.URL{Scheme: "file", Path: path, RawQuery: settings.Encode()}).String()
	}
	// FULL: a transaction that was committed survives a power cut. The journal in WAL mode lets readers go on beside a writer.
	write, err := sql.Open("sqlite", source(url.Values{
		"_txlock": {"immediate"},
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
	}))
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", source(url.Values{"_pragma": {"busy_timeout(5000)", "query_only(1)"}}))
	if err != nil {
		write.Close()
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	read.SetMaxOpenConns(maxOpenConns)
	return &DB{dialect: sqliteDialect, write: write, read: read}, nil
}

var sqliteDialect = dialect{
	name:    "sqlite",
	options: func(bool) *sql.TxOptions { return nil },
	rewrite: func(query string) string { return query },
	again: func(err error) bool {
		code := sqliteCode(err) & 0xff // the low byte is the kind: sqlite.org/rescode.html
		return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
	},
	full: func(err error) bool { return sqliteCode(err)&0xff == sqlite3.SQLITE_FULL },
	wrong: func(err error) bool {
		switch sqliteCode(err) & 0xff {
		case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_READONLY:
			return true
		}
		return false
	},
	protect: []string{
		`CREATE TRIGGER IF NOT EXISTS audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END`,
		`CREATE TRIGGER IF NOT EXISTS audit_is_not_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END`,
	},
}

func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

func openPostgres(address string) (*DB, error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err) // pgx leaves out the password
	}
	// A replica that vanished without a word, or was stopped in the middle, must not hold the lock of writers.
	for name, value := range map[string]string{
		"idle_in_transaction_session_timeout": strconv.FormatInt(MaxDuration.Milliseconds(), 10),
		"statement_timeout":                   strconv.FormatInt(MaxDuration.Milliseconds(), 10),
		"tcp_keepalives_idle":                 "10",
		"tcp_keepalives_interval":             "5",
		"tcp_keepalives_count":                "3",
		"synchronous_commit":                  "on",
	} {
		if _, given := config.RuntimeParams[name]; !given {
			config.RuntimeParams[name] = value
		}
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "raypher-controller"
	}
	pool := stdlib.OpenDB(*config)
	pool.SetMaxOpenConns(maxOpenConns)
	pool.SetMaxIdleConns(maxOpenConns)
	return &DB{dialect: postgresDialect, write: pool, read: pool}, nil
}

// lockKey is an advisory lock of the database (pg_locks), the ASCII codes of "raypher\x01".
const lockKey = 0x7261797068657201

var postgresDialect = dialect{
	name: "postgresql",
	// The level is READ COMMITTED: each statement after the lock sees what the writer before has committed. A stricter level would
	// take its snapshot while it waits for the lock.
	lock: fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", uint64(lockKey)),
	options: func(readOnly bool) *sql.TxOptions {
		if readOnly {
			return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
		}
		return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	},
	rewrite: numbered,
	again: func(err error) bool { // serialization_failure, deadlock_detected
		code := postgresCode(err)
		return code == "40001" || code == "40P01"
	},
	full: func(err error) bool { return postgresCode(err) == "53100" }, // disk_full
	wrong: func(err error) bool { // data exceptions, constraints, syntax and access
		switch code := postgresCode(err); {
		case strings.HasPrefix(code, "22"), strings.HasPrefix(code, "23"), strings.HasPrefix(code, "42"), code == "P0001", code == "25006":
			return true
		}
		return false
	},
	protect: []string{
		`CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''the audit is append-only''; END'`,
		`DROP TRIGGER IF EXISTS audit_is_append_only ON audit`,
		`CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()`,
	},
}

func postgresCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// numbered writes ? as $1, $2, … A query has no other ?: text belongs into parameters.
func numbered(query string) string {
	parts := strings.Split(query, "?")
	var out strings.Builder
	for i, part := range parts {
		if i > 0 {
			out.WriteString("$" + strconv.Itoa(i))
		}
		out.WriteString(part)
	}
	return out.String()
}
