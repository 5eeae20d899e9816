package secret_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller/callertest"
	"github.com/raypher/raypher/controller/secret"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
)

// TestLifeOfASecret: put, fetched where it is granted, rotated, taken away, put again. Versions never go back.
func TestLifeOfASecret(t *testing.T) {
	each(t, func(b *bench) {
		first, second, software := b.enclave("build-1", journal.TierNitro), b.enclave("web-1", journal.TierTPM), b.enclave("build-2", journal.TierSoftware)
		b.put("llm/key", value, "build-*")
		b.mustPut(&controllerv1.PutSecretRequest{Name: "dev", Value: []byte("x"), Hosts: []string{"*"}, Tiers: []string{"software", "tpm"}})
		b.wantFetch(first, "llm/key=1")
		b.wantFetch(first)
		b.wantFetch(second, "dev=1")
		b.wantFetch(software, "dev=1")
		if first.values["llm/key"] != value {
			b.Errorf("it opens as %q", first.values["llm/key"])
		}
		// A rotation keeps hosts and tiers.
		state := b.put("llm/key", "another")
		if state.GetVersion() != 2 || !slices.Equal(state.GetHosts(), []string{"build-*"}) || !slices.Equal(state.GetTiers(), []string{"nitro", "tpm"}) {
			b.Errorf("%v", state)
		}
		b.wantFetch(first, "llm/key=2")
		if first.values["llm/key"] != "another" {
			b.Errorf("after the rotation it opens as %q", first.values["llm/key"])
		}
		// Granted to others: who has it is told to forget it.
		b.put("llm/key", "third", "web-?")
		b.wantFetch(first, "-llm/key")
		b.wantFetch(second, "llm/key=3")
		b.remove("llm/key")
		b.wantFetch(second, "-llm/key")
		if _, err := b.Put(callertest.Operator(b.Context()), &controllerv1.PutSecretRequest{Name: "llm/key", Value: []byte("x")}); status.Code(err) != codes.InvalidArgument {
			b.Errorf("put again without hosts: %v", err)
		}
		if state := b.put("llm/key", "fourth", "build-1"); state.GetVersion() != 4 {
			b.Errorf("put again as version %d", state.GetVersion())
		}
		b.wantFetch(first, "llm/key=4")
		b.wantFetch(second)
	})
}

// TestASecretEnds: from its end on nobody gets it, and who has it is told to forget it.
func TestASecretEnds(t *testing.T) {
	each(t, func(b *bench) {
		e := b.enclave("build-1", journal.TierNitro)
		b.mustPut(&controllerv1.PutSecretRequest{Name: "token", Value: []byte(value), Hosts: []string{"*"}, ExpiresUnix: now.Unix() + 60})
		b.wantFetch(e, "token=1")
		b.at = now.Add(59 * time.Second)
		b.wantFetch(e)
		b.at = now.Add(60 * time.Second)
		b.wantFetch(e, "-token")
		b.wantFetch(e)
	})
}

// TestFetchRefuses: whoever is not an attested enclave that asks for itself gets no secret, and it is on record where the enclave is known.
func TestFetchRefuses(t *testing.T) {
	each(t, func(b *bench) {
		b.put("key", value, "build-*")
		good, other := b.enclave("build-1", journal.TierNitro), b.enclave("build-1", journal.TierNitro)
		expired := b.enclave("build-1", journal.TierNitro)
		b.fleet.Expire(expired.Enclave)
		as := func(change func(r *controllerv1.FetchSecretsRequest)) *controllerv1.FetchSecretsRequest {
			r := good.request()
			change(r)
			return r
		}
		for _, c := range []struct {
			name     string
			ctx      context.Context
			request  *controllerv1.FetchSecretsRequest
			code     codes.Code
			recorded bool
		}{
			{"nobody", b.Context(), good.request(), codes.PermissionDenied, false},
			{"an operator", callertest.Operator(b.Context()), good.request(), codes.PermissionDenied, false},
			{"the host's parent", callertest.Parent(b.Context(), "build-1"), good.request(), codes.PermissionDenied, false},
			{"an expired result", expired.Context(b.Context()), expired.request(), codes.PermissionDenied, false},
			{"a request replayed by another enclave of the host", other.Context(b.Context()), good.request(), codes.PermissionDenied, false},
			{"another enclave's result with its own recipient", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) { r.Result = other.Result }), codes.PermissionDenied, false},
			{"no result: the database alone would say who is attested", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) { r.Result = "" }), codes.PermissionDenied, false},
			{"another enclave's recipient", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) { r.Recipient = other.signed }), codes.PermissionDenied, true},
			{"a recipient of an earlier epoch", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) {
				r.Recipient = b.sign(good, journal.EpochID{1}, now.Add(time.Hour))
			}), codes.PermissionDenied, true},
			{"a recipient that is over", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) { r.Recipient = b.sign(good, good.Epoch, now) }), codes.PermissionDenied, true},
			{"a recipient for ever", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) {
				r.Recipient = b.sign(good, good.Epoch, now.Add(recipient.MaxLifetime+time.Minute))
			}), codes.PermissionDenied, true},
			{"no recipient", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) { r.Recipient = nil }), codes.PermissionDenied, true},
			{"a changed recipient", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) {
				r.Recipient = bytes.Clone(r.Recipient)
				r.Recipient[len(r.Recipient)/2] ^= 1
			}), codes.PermissionDenied, true},
			{"a name that is none", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) { r.Held = []*controllerv1.HeldSecret{{Name: "\x00"}} }), codes.InvalidArgument, false},
			{"a name twice", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) {
				r.Held = []*controllerv1.HeldSecret{{Name: "a"}, {Name: "a"}}
			}), codes.InvalidArgument, false},
			{"more names than there can be", good.Context(b.Context()), as(func(r *controllerv1.FetchSecretsRequest) {
				for i := range secret.MaxSecrets + 1 {
					r.Held = append(r.Held, &controllerv1.HeldSecret{Name: fmt.Sprint(i)})
				}
			}), codes.InvalidArgument, false},
		} {
			before := len(b.audit())
			reply, err := b.Fetch(c.ctx, c.request)
			if status.Code(err) != c.code || len(reply.GetSecrets()) != 0 {
				b.Errorf("%s: %v, %v", c.name, reply, err)
			}
			if recorded := b.audit()[before:]; (len(recorded) == 1) != c.recorded || c.recorded && !strings.HasPrefix(recorded[0], good.Actor+" secret.fetch build-1 recipient") {
				b.Errorf("%s: on record: %q", c.name, recorded)
			}
		}
		b.wantFetch(good, "key=1") // nothing of it did harm
	})
}

// TestOnlyTheRecipientOpens: what is fetched opens with the key of the enclave that fetched, under its label, and with no other.
func TestOnlyTheRecipientOpens(t *testing.T) {
	each(t, func(b *bench) {
		b.put("key", value, "*")
		b.put("other", "value of other", "*")
		e, stranger := b.enclave("build-1", journal.TierNitro), b.enclave("build-1", journal.TierNitro)
		reply, err := b.Fetch(e.Context(b.Context()), e.request())
		if err != nil || len(reply.GetSecrets()) != 2 {
			b.Fatal(reply, err)
		}
		one, two := reply.GetSecrets()[0], reply.GetSecrets()[1]
		label := recipient.Label{Name: "key", Version: 1, Host: "build-1"}
		if got, err := e.key.Open(label, one.GetEncapsulated(), one.GetCiphertext()); err != nil || string(got) != value {
			b.Errorf("%q, %v", got, err)
		}
		if _, err := stranger.key.Open(label, one.GetEncapsulated(), one.GetCiphertext()); err == nil {
			b.Error("it opens with the key of another enclave")
		}
		for name, l := range map[string]recipient.Label{
			"name": {Name: "other", Version: 1, Host: "build-1"}, "version": {Name: "key", Version: 2, Host: "build-1"},
			"host": {Name: "key", Version: 1, Host: "build-2"}, "end": {Name: "key", Version: 1, Host: "build-1", Expires: 1},
		} {
			if _, err := e.key.Open(l, one.GetEncapsulated(), one.GetCiphertext()); err == nil {
				b.Errorf("it opens under another %s", name)
			}
		}
		if _, err := e.key.Open(label, two.GetEncapsulated(), two.GetCiphertext()); err == nil {
			b.Error("another secret opens in its place")
		}
	})
}

// TestEveryHandoutIsOnRecord: who got which version; a value is nowhere.
func TestEveryHandoutIsOnRecord(t *testing.T) {
	each(t, func(b *bench) {
		e := b.enclave("build-1", journal.TierNitro)
		b.put("key", value, "*")
		b.wantFetch(e, "key=1")
		b.wantFetch(e)
		b.put("key", value+"2")
		b.wantFetch(e, "key=2")
		b.remove("key")
		want := []string{
			callertest.OperatorKey + " secret.put key version 1 ok", e.Actor + " secret.fetch key version 1 for build-1 ok",
			callertest.OperatorKey + " secret.put key version 2 ok", e.Actor + " secret.fetch key version 2 for build-1 ok",
			callertest.OperatorKey + " secret.delete key ok",
		}
		if got := b.audit(); !slices.Equal(got, want) {
			b.Errorf("on record:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestTheDatabaseAloneTellsNothing: no table has a value, or the key.
func TestTheDatabaseAloneTellsNothing(t *testing.T) {
	each(t, func(b *bench) {
		e := b.enclave("build-1", journal.TierNitro)
		b.put("key", value, "*")
		b.put("key", value)
		b.wantFetch(e, "key=2")
		dump := b.dump()
		keyText, err := os.ReadFile(b.key)
		if err != nil {
			b.Fatal(err)
		}
		if !bytes.Contains(dump, []byte("build-1")) {
			b.Fatal("the dump is none")
		}
		for name, text := range map[string][]byte{"value": []byte(value), "key": bytes.TrimSpace(keyText)} {
			if bytes.Contains(dump, text) {
				b.Errorf("the database has the %s", name)
			}
		}
		// Nor is it in SQLite's files, free pages and the journal among them.
		for _, suffix := range []string{"", "-wal"} {
			if text, err := os.ReadFile(b.url + suffix); err == nil && bytes.Contains(text, []byte(value)) {
				b.Errorf("the file %s has the value", suffix)
			}
		}
		b.remove("key")
		if dump := b.dump(); bytes.Contains(dump, []byte(value)) {
			b.Error("a deleted value is there")
		}
	})
}

// TestWhoWritesTheDatabaseGainsNoValue: a stored value opens only beside what it was put with, so that writing the database gives it
// to no other host, name or tier.
func TestWhoWritesTheDatabaseGainsNoValue(t *testing.T) {
	each(t, func(b *bench) {
		e := b.enclave("build-1", journal.TierNitro)
		for name, statement := range map[string]string{
			"hosts": `UPDATE secrets SET hosts = '*'`, "tiers": `UPDATE secrets SET hosts = 'web-1', tiers = 'nitro,software,tpm'`,
			"exchanged": `UPDATE secrets SET value = (SELECT value FROM secrets WHERE name = 'mine') WHERE name = 'theirs'`,
			"version":   `UPDATE secrets SET version = 9`,
			"end":       `UPDATE secrets SET expires = 4000000000`,
		} {
			who := b.enclave("web-1", journal.TierNitro)
			if name == "hosts" {
				who = e
			}
			b.put("theirs", value, "web-*")
			b.put("mine", "mine", "web-*")
			if err := b.DB.Update(b.Context(), func(tx *store.Tx) error { return tx.Exec(statement) }); err != nil {
				b.Fatal(err)
			}
			if reply, err := b.Fetch(who.Context(b.Context()), who.request()); status.Code(err) != codes.DataLoss || reply != nil {
				b.Errorf("%s: %v, %v", name, reply, err)
			}
		}
	})
}

// TestKeyFile: a replica needs the key with which the database was filled, in a file that not everybody can read.
func TestKeyFile(t *testing.T) {
	each(t, func(b *bench) {
		b.put("key", value, "*")
		if made, err := secret.MakeKey(b.key); made || err != nil {
			b.Errorf("a key is there, and another was made: %v, %v", made, err)
		}
		e := b.enclave("build-1", journal.TierNitro)
		if got := b.fetch(b.replica(b.key), e); !slices.Equal(got, []string{"key=1"}) {
			b.Errorf("a replica hands out %q", got)
		}
		another := filepath.Join(b.TempDir(), "another.key")
		if _, err := secret.MakeKey(another); err != nil {
			b.Fatal(err)
		}
		if _, err := b.open(another); err == nil || !strings.Contains(err.Error(), "is not the one that this database was filled with") {
			b.Errorf("with another key: %v", err)
		}
		text, err := os.ReadFile(b.key)
		if err != nil {
			b.Fatal(err)
		}
		bad := filepath.Join(b.TempDir(), "bad.key")
		for name, c := range map[string]struct {
			text []byte
			mode os.FileMode
		}{
			"open to everybody": {text, 0o644}, "empty": {nil, 0o600}, "two keys": {append(bytes.Clone(text), text...), 0o600},
			"cut": {text[:len(text)/2], 0o600}, "no key": {[]byte("secret"), 0o600},
		} {
			os.Remove(bad)
			if err := os.WriteFile(bad, c.text, 0o600); err != nil {
				b.Fatal(err)
			}
			if err := os.Chmod(bad, c.mode); err != nil {
				b.Fatal(err)
			}
			if _, err := secret.OpenVault(bad); err == nil {
				b.Errorf("%s: it opens", name)
			}
		}
		if _, err := secret.OpenVault(filepath.Join(b.TempDir(), "none")); !os.IsNotExist(err) && err == nil {
			b.Error("no file opens")
		}
	})
}

// TestOperatorsOnly: nobody else puts, deletes or lists.
func TestOperatorsOnly(t *testing.T) {
	each(t, func(b *bench) {
		b.put("key", value, "*")
		e := b.enclave("build-1", journal.TierNitro)
		for name, ctx := range map[string]context.Context{"nobody": b.Context(), "an enclave": e.Context(b.Context()), "a parent": callertest.Parent(b.Context(), "build-1")} {
			_, putErr := b.Put(ctx, &controllerv1.PutSecretRequest{Name: "key", Value: []byte("x")})
			_, deleteErr := b.Delete(ctx, &controllerv1.DeleteSecretRequest{Name: "key"})
			list, listErr := b.List(ctx, &controllerv1.ListSecretsRequest{})
			for _, err := range []error{putErr, deleteErr, listErr} {
				if status.Code(err) != codes.PermissionDenied || list != nil {
					b.Errorf("%s: %v", name, err)
				}
			}
		}
		if _, err := b.Acknowledge(callertest.Operator(b.Context()), &controllerv1.AcknowledgeSecretsRequest{}); status.Code(err) != codes.PermissionDenied {
			b.Errorf("an operator acknowledges: %v", err)
		}
		b.wantFetch(e, "key=1")
	})
}

func TestPutRefuses(t *testing.T) {
	each(t, func(b *bench) {
		for name, r := range map[string]*controllerv1.PutSecretRequest{
			"no name":              {Value: []byte("x"), Hosts: []string{"*"}},
			"a name that is none":  {Name: "a b", Value: []byte("x"), Hosts: []string{"*"}},
			"a long name":          {Name: strings.Repeat("a", secret.MaxName+1), Value: []byte("x"), Hosts: []string{"*"}},
			"no value":             {Name: "a", Hosts: []string{"*"}},
			"a large value":        {Name: "a", Value: make([]byte, secret.MaxValue+1), Hosts: []string{"*"}},
			"no hosts":             {Name: "a", Value: []byte("x")},
			"hosts that are none":  {Name: "a", Value: []byte("x"), Hosts: []string{"a/b"}},
			"a tier that is none":  {Name: "a", Value: []byte("x"), Hosts: []string{"*"}, Tiers: []string{"tpm2"}},
			"an end that is over":  {Name: "a", Value: []byte("x"), Hosts: []string{"*"}, ExpiresUnix: now.Unix()},
			"an end before all of": {Name: "a", Value: []byte("x"), Hosts: []string{"*"}, ExpiresUnix: -1},
		} {
			if state, err := b.Put(callertest.Operator(b.Context()), r); status.Code(err) != codes.InvalidArgument {
				b.Errorf("%s: %v, %v", name, state, err)
			} else if strings.Contains(err.Error(), string(r.GetValue())) && len(r.GetValue()) > 3 {
				b.Errorf("%s: the error has the value", name)
			}
		}
		if _, err := b.Delete(callertest.Operator(b.Context()), &controllerv1.DeleteSecretRequest{Name: "a"}); status.Code(err) != codes.NotFound {
			b.Errorf("delete of what is not there: %v", err)
		}
		if lines := b.audit(); len(lines) != 0 {
			b.Errorf("on record: %q", lines)
		}
	})
}

// TestList: who has which version, as the enclaves said; never a value.
func TestList(t *testing.T) {
	each(t, func(b *bench) {
		b.put("key", value, "*")
		b.put("key", value)
		e := b.enclave("build-1", journal.TierNitro)
		b.wantFetch(e, "key=2")
		acknowledge := func(held ...*controllerv1.HeldSecret) {
			b.Helper()
			if _, err := b.Acknowledge(e.Context(b.Context()), &controllerv1.AcknowledgeSecretsRequest{Held: held}); err != nil {
				b.Fatal(err)
			}
		}
		list := func() *controllerv1.SecretState {
			b.Helper()
			reply, err := b.List(callertest.Operator(b.Context()), &controllerv1.ListSecretsRequest{})
			if err != nil || len(reply.GetSecrets()) != 1 || strings.Contains(reply.String(), value) {
				b.Fatal(reply, err)
			}
			return reply.GetSecrets()[0]
		}
		if s := list(); len(s.GetHeld()) != 0 || s.GetVersion() != 2 || s.GetPutUnix() != now.Unix() {
			b.Errorf("%v", s)
		}
		// What an enclave says of names and versions that do not exist is passed over.
		acknowledge(&controllerv1.HeldSecret{Name: "key", Version: 2}, &controllerv1.HeldSecret{Name: "none", Version: 1})
		if s := list(); s.GetHeld()["build-1"] != 2 || len(s.GetHeld()) != 1 {
			b.Errorf("%v", s)
		}
		acknowledge(&controllerv1.HeldSecret{Name: "key", Version: 3})
		if s := list(); len(s.GetHeld()) != 0 {
			b.Errorf("%v", s)
		}
	})
}

// TestListInPages: secrets come by name, each once, however many hosts hold them.
func TestListInPages(t *testing.T) {
	each(t, func(b *bench) {
		const secrets, hosts = 20, 500
		for i := range secrets {
			b.put(fmt.Sprintf("s%d", i), value, "*")
		}
		db := storetest.Open(b, b.url)
		for i := range secrets {
			if err := db.Update(b.Context(), func(tx *store.Tx) error {
				return tx.Exec(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
					INSERT INTO secrets_held (host, name, version) SELECT CAST(? AS TEXT) || i, CAST(? AS TEXT), 1 FROM n`, hosts, strings.Repeat("h", 240), fmt.Sprintf("s%d", i))
			}); err != nil {
				b.Fatal(err)
			}
		}
		for _, limit := range []uint32{0, 3} {
			var names []string
			pages := 0
			for request := (&controllerv1.ListSecretsRequest{Limit: limit}); ; {
				reply, err := b.List(callertest.Operator(b.Context()), request)
				if err != nil {
					b.Fatal(err)
				}
				for _, s := range reply.GetSecrets() {
					names = append(names, s.GetName())
					if len(s.GetHeld()) != hosts {
						b.Errorf("%s is held by %d hosts", s.GetName(), len(s.GetHeld()))
					}
				}
				if pages++; limit != 0 && len(reply.GetSecrets()) > int(limit) {
					b.Errorf("%d secrets in a page of %d", len(reply.GetSecrets()), limit)
				}
				if request.After = reply.GetNext(); request.After == "" {
					break
				}
			}
			if len(names) != secrets || !slices.IsSorted(names) || len(slices.Compact(names)) != secrets || pages < 2 {
				b.Errorf("limit %d: %d pages with %q", limit, pages, names)
			}
		}
	})
}

// TestRotationsAtOnce: operators who rotate at two replicas at the same time get a version each, and an enclave ends up with the highest.
func TestRotationsAtOnce(t *testing.T) {
	each(t, func(b *bench) {
		replicas := []*secret.Service{b.Service, b.replica(b.key)}
		b.put("key", "0", "*")
		const each = 8
		var (
			all  sync.WaitGroup
			mu   sync.Mutex
			said = map[uint64]string{1: "0"}
		)
		for i := range 4 {
			all.Go(func() {
				for j := range each {
					text := fmt.Sprintf("%d-%d", i, j)
					state, err := replicas[i%2].Put(callertest.Operator(context.Background()), &controllerv1.PutSecretRequest{Name: "key", Value: []byte(text)})
					mu.Lock()
					if before, given := said[state.GetVersion()]; err != nil || given {
						b.Errorf("%v: version %d was %q before", err, state.GetVersion(), before)
					}
					said[state.GetVersion()] = text
					mu.Unlock()
				}
			})
		}
		// Meanwhile an enclave fetches: whatever it gets is the value of the version that it gets.
		e := b.enclave("build-1", journal.TierNitro)
		fetched := map[uint64]string{}
		for range 6 {
			b.fetch(replicas[1], e)
			fetched[e.held["key"]] = e.values["key"]
		}
		all.Wait()
		b.fetch(replicas[0], e)
		fetched[e.held["key"]] = e.values["key"]
		for version, text := range fetched {
			if said[version] != text {
				b.Errorf("version %d is %q, put was %q", version, text, said[version])
			}
		}
		if len(said) != 4*each+1 || e.held["key"] != 4*each+1 {
			b.Errorf("%d versions, the enclave has %d", len(said), e.held["key"])
		}
	})
}

// TestLargeReplies: more than fits into one reply comes with the next.
func TestLargeReplies(t *testing.T) {
	each(t, func(b *bench) {
		e := b.enclave("build-1", journal.TierNitro)
		const many = secret.MaxReply/secret.MaxValue + 8
		for i := range many {
			b.put(fmt.Sprintf("key-%02d", i), strings.Repeat("x", secret.MaxValue), "*")
		}
		first := b.fetch(b.Service, e)
		second := b.fetch(b.Service, e)
		if len(first) < many/2 || len(first) >= many || len(first)+len(second) != many {
			b.Errorf("%d and %d of %d", len(first), len(second), many)
		}
		b.wantFetch(e)
	})
}
