package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
)

// Writers in several processes' worth of pools exclude each other: no increment is lost, and no audit number given twice or left out.
func TestWritersExcludeEachOther(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		ctx := context.Background()
		const replicas, writers, each = 3, 4, 10
		var all sync.WaitGroup
		for range replicas {
			db := storetest.Open(t, url) // at once: the migrations race too
			for range writers {
				all.Go(func() {
					for range each {
						err := db.Update(ctx, func(tx *store.Tx) error {
							var count int
							if err := tx.Get([]any{&count}, `SELECT COUNT(*) FROM audit`); err != nil {
								return err
							}
							return tx.Audit(store.Entry{Actor: "test", Action: "count", Subject: fmt.Sprint(count + 1), Outcome: store.OK})
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		all.Wait()
		entries := entries(t, storetest.Open(t, url))
		if len(entries) != replicas*writers*each {
			t.Errorf("%d entries", len(entries))
		}
		for i, e := range entries {
			if e.Number != uint64(i+1) || e.Subject != fmt.Sprint(i+1) {
				t.Fatalf("entry %d: number %d, counted %s", i+1, e.Number, e.Subject)
			}
		}
	})
}

func TestConcurrentOpening(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		identities := make([]string, 6)
		var all sync.WaitGroup
		for i := range identities {
			all.Go(func() {
				db, err := store.Open(context.Background(), url)
				if err != nil {
					t.Error(err)
					return
				}
				defer db.Close()
				identities[i] = string(db.Identity())
			})
		}
		all.Wait()
		for _, id := range identities {
			if len(id) != 16 || id != identities[0] {
				t.Errorf("identities %x", identities)
			}
		}
	})
}

// A transaction holds as a whole or not at all, with its audit.
func TestRollback(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		mine := errors.New("no")
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			if err := tx.Audit(store.Entry{Action: "never"}); err != nil {
				return err
			}
			return mine
		})
		if !errors.Is(err, mine) || len(entries(t, db)) != 0 {
			t.Errorf("%v, %d entries", err, len(entries(t, db)))
		}
	})
}

func TestAuditIsAppendOnly(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		ctx := context.Background()
		if err := db.Update(ctx, func(tx *store.Tx) error {
			return tx.Audit(store.Entry{Actor: "a", Action: "b", Subject: "c\x00\xff\x1b[1m" + strings.Repeat("x", 5000), Outcome: store.OK})
		}); err != nil {
			t.Fatal(err)
		}
		for _, statement := range []string{`UPDATE audit SET outcome = 'x'`, `DELETE FROM audit`} {
			if err := db.Update(ctx, func(tx *store.Tx) error { return tx.Exec(statement) }); err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Errorf("%s: %v", statement, err)
			}
		}
		if e := entries(t, db); len(e) != 1 || !strings.HasPrefix(e[0].Subject, "c???[1mxxx") || len(e[0].Subject) != 1024 {
			t.Errorf("%+v", e)
		}
	})
}

func TestViewCannotWrite(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		if err := db.View(context.Background(), func(tx *store.Tx) error { return tx.Audit(store.Entry{}) }); err == nil {
			t.Error("a view wrote")
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct{ name, url, want string }{
		{"unknown kind", "mysql://x/y", "unknown kind"},
		{"nothing", "", "unknown kind"},
		{"no such folder", filepath.Join(t.TempDir(), "a", "b.db"), "no such file"},
		{"nobody there", "postgres://nobody@127.0.0.1:1/none", "does not answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := store.Open(context.Background(), c.url)
			if err == nil {
				db.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestNewerDatabase(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		ctx := context.Background()
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.Exec(`UPDATE schema_version SET version = 9999`) }); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(ctx, url); !errors.Is(err, store.ErrNewer) {
			t.Error(err)
		}
	})
}

func entries(t *testing.T, db *store.DB) (all []store.Entry) {
	t.Helper()
	err := db.View(context.Background(), func(tx *store.Tx) (err error) {
		all, err = tx.Entries(0, 100000)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
