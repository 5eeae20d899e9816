package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// Each file is one version: 0001_name.sql, 0002_…, without gaps; statements end with ; at the end of a line.
//
//go:embed migrations/*.sql
var migrations embed.FS

type migration struct {
	version    int
	name       string
	statements []string
}

func readMigrations(files fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(files, "migrations") // sorted
	if err != nil {
		return nil, err
	}
	var list []migration
	for i, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		if version, err := strconv.Atoi(number); err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: not number %04d: each follows the one before", entry.Name(), i+1)
		}
		text, err := fs.ReadFile(files, "migrations/"+entry.Name())
		if err != nil {
			return nil, err
		}
		m := migration{version: i + 1, name: entry.Name()}
		for _, statement := range strings.Split(string(text), ";\n") {
			if strings.TrimSpace(statement) != "" {
				m.statements = append(m.statements, statement)
			}
		}
		list = append(list, m)
	}
	return list, nil
}

// migrate brings the tables up to date, in one transaction under the lock of writers: of processes that start at once one does it, and
// the others find it done.
func (db *DB) migrate(ctx context.Context) error {
	list, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	err = db.Update(ctx, func(tx *Tx) error {
		if err := tx.Exec(`CREATE TABLE IF NOT EXISTS schema_version (one BIGINT PRIMARY KEY CHECK (one = 1), version BIGINT NOT NULL, changed BIGINT NOT NULL)`); err != nil {
			return err
		}
		var version int
		if err := tx.Get([]any{&version}, `SELECT version FROM schema_version`); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if version > len(list) {
			return fmt.Errorf("%w: its tables are of version %d, this program knows %d: start the newer program", ErrNewer, version, len(list))
		}
		for _, m := range list[version:] {
			for _, statement := range m.statements {
				if err := tx.Exec(statement); err != nil {
					return fmt.Errorf("migration %s: %w", m.name, err)
				}
			}
		}
		if version < len(list) {
			for _, statement := range tx.dialect.protect {
				if err := tx.Exec(statement); err != nil {
					return fmt.Errorf("protecting the audit: %w", err)
				}
			}
			if err := tx.Exec(`INSERT INTO schema_version (one, version, changed) VALUES (1, ?, ?)
				ON CONFLICT (one) DO UPDATE SET version = excluded.version, changed = excluded.changed`, len(list), Millis(time.Now())); err != nil {
				return err
			}
		}
		return db.readIdentity(tx)
	})
	if err != nil {
		return fmt.Errorf("opening the %s database: %w", db.Kind(), err)
	}
	return nil
}
