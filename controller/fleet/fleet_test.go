package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/raypher/raypher/controller/caller/callertest"
	"github.com/raypher/raypher/controller/fleet"
	"github.com/raypher/raypher/controller/host"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// Hosts come in pages, each once and by name, however large their reports are.
func TestHostsInPages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		s := fleet.New(fleet.Options{DB: db, Callers: &callertest.Fleet{}})
		const hosts = fleet.MaxPage + 7
		policies := `[` + strings.TrimSuffix(strings.Repeat(`{"name":"`+strings.Repeat("p", fleet.MaxName)+`","version":1},`, fleet.MaxPolicies), ",") + `]`
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for i := range hosts {
				h := &host.Host{Name: fmt.Sprintf("h%d", i), Tier: journal.TierNitro, CallerKey: fmt.Sprint(i), Verdict: host.None}
				if i%4 == 0 {
					h.Policies = policies
				}
				if err := h.Save(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		operator := callertest.Operator(context.Background())
		for _, limit := range []uint32{0, 100, 1 << 31} {
			seen, pages := map[string]bool{}, 0
			for request := (&controllerv1.HostsRequest{Limit: limit}); ; pages++ {
				reply, err := s.Hosts(operator, request)
				if err != nil {
					t.Fatal(err)
				}
				if n := len(reply.GetHosts()); n == 0 || n > fleet.MaxPage || limit == 100 && n > 100 {
					t.Fatalf("%d hosts in a page", n)
				}
				for _, h := range reply.GetHosts() {
					if seen[h.GetName()] {
						t.Errorf("%s comes twice", h.GetName())
					}
					seen[h.GetName()] = true
				}
				if request.After = reply.GetNext(); request.After == "" {
					break
				}
			}
			if len(seen) != hosts || pages < 2 {
				t.Errorf("limit %d: %d hosts of %d in %d pages", limit, len(seen), hosts, pages+1)
			}
		}
	})
}

// Of a removed host it is no longer said what it holds, nor what it spent.
func TestRemovedHostLeavesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		s := fleet.New(fleet.Options{DB: db, Callers: &callertest.Fleet{}})
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for _, name := range []string{"goes", "stays"} {
				h := &host.Host{Name: name, Tier: journal.TierNitro, CallerKey: name, Verdict: host.None}
				if err := h.Save(tx); err != nil {
					return err
				}
				if err := tx.Exec(`INSERT INTO secrets_held (host, name, version) VALUES (?, 'llm', 1)`, name); err != nil {
					return err
				}
				if err := tx.AuditOf(name, store.Entry{Action: "attest", Subject: name, Outcome: store.OK}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.RemoveHost(callertest.Operator(t.Context()), &controllerv1.RemoveHostRequest{Name: "goes"}); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"secrets_held", "host_budgets"} {
			var of string
			err := db.View(t.Context(), func(tx *store.Tx) error { return tx.Get([]any{&of}, `SELECT MIN(host) FROM `+table) })
			if err != nil || of != "stays" {
				t.Errorf("%s has rows of %q, %v", table, of, err)
			}
		}
	})
}
