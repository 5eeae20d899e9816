package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
)

// A host can cause so many entries of one action in an hour, and what is beyond is not done; other hosts and other actions have budgets of
// their own.
func TestHostCannotFillTheAudit(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		caused := func(host, action string, times int) (done int, err error) {
			err = db.Update(context.Background(), func(tx *store.Tx) error {
				for done = range times {
					if err := tx.AuditOf(host, store.Entry{Actor: "a", Action: action, Subject: host, Outcome: store.OK}); err != nil {
						return err
					}
				}
				done = times
				return nil
			})
			return done, err
		}
		many := func(times int) error { // in transactions that a busy machine has time for
			for ; times > 0; times -= 100 {
				if _, err := caused("greedy", "lease.take", min(times, 100)); err != nil {
					return err
				}
			}
			return nil
		}
		if err := many(store.MaxHostEntries - 1); err != nil {
			t.Fatal(err)
		}
		if _, err := caused("greedy", "lease.take", 2); !errors.Is(err, store.ErrBudget) { // and the first of them does not hold either
			t.Errorf("beyond the budget: %v", err)
		}
		for _, c := range []struct {
			host, action string
			want         error
		}{
			{"greedy", "lease.take", nil},
			{"greedy", "lease.take", store.ErrBudget},
			{"greedy", "attest", nil},
			{"modest", "lease.take", nil},
		} {
			if _, err := caused(c.host, c.action, 1); !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %v", c.host, c.action, err)
			}
		}
		// The next hour, which no clock of a test can wait for: the one before is long ago.
		if err := db.Update(context.Background(), func(tx *store.Tx) error { return tx.Exec(`UPDATE host_budgets SET hour = hour - 1`) }); err != nil {
			t.Fatal(err)
		}
		if err := many(store.MaxHostEntries); err != nil {
			t.Errorf("in the next hour: %v", err)
		}
		var count int
		if err := db.View(context.Background(), func(tx *store.Tx) error { return tx.Get([]any{&count}, `SELECT COUNT(*) FROM audit`) }); err != nil || count != 2*store.MaxHostEntries+2 {
			t.Errorf("%d entries, %v", count, err)
		}
	})
}
