package secret_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/raypher/raypher/controller/caller/callertest"
	"github.com/raypher/raypher/controller/secret"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
)

// now is when the tests are; it stands still.
var now = time.Unix(1_790_000_000, 0)

const value = "sk-7f3a-the-value-that-nobody-sees"

// bench is a controller's secrets, and what a test does with them.
type bench struct {
	*testing.T
	*secret.Service
	fleet *callertest.Fleet
	key   string // file
	url   string
	at    time.Time
}

func each(t *testing.T, f func(b *bench)) {
	storetest.Each(t, func(t *testing.T, url string) {
		b := &bench{T: t, fleet: &callertest.Fleet{}, url: url, key: filepath.Join(t.TempDir(), "secrets.key"), at: now}
		if made, err := secret.MakeKey(b.key); err != nil || !made {
			t.Fatal(made, err)
		}
		b.Service = b.replica(b.key)
		f(b)
	})
}

// replica is another process of the controller.
func (b *bench) replica(key string) *secret.Service {
	b.Helper()
	s, err := b.open(key)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func (b *bench) open(key string) (*secret.Service, error) {
	vault, err := secret.OpenVault(key)
	if err != nil {
		return nil, err
	}
	return secret.New(context.Background(), secret.Options{DB: storetest.Open(b, b.url), Vault: vault, Callers: b.fleet, Now: func() time.Time { return b.at }})
}

func (b *bench) put(name, value string, hosts ...string) *controllerv1.SecretState {
	b.Helper()
	return b.mustPut(&controllerv1.PutSecretRequest{Name: name, Value: []byte(value), Hosts: hosts})
}

func (b *bench) mustPut(r *controllerv1.PutSecretRequest) *controllerv1.SecretState {
	b.Helper()
	state, err := b.Put(callertest.Operator(b.Context()), r)
	if err != nil {
		b.Fatal(err)
	}
	return state
}

func (b *bench) remove(name string) {
	b.Helper()
	if _, err := b.Delete(callertest.Operator(b.Context()), &controllerv1.DeleteSecretRequest{Name: name}); err != nil {
		b.Fatal(err)
	}
}

// enclave is an attested one with a recipient key, and what it holds.
type enclave struct {
	*callertest.Enclave
	key    *recipient.Key
	signed []byte
	held   map[string]uint64
	values map[string]string
}

func (b *bench) enclave(host, tier string) *enclave {
	b.Helper()
	e := &enclave{Enclave: callertest.NewEnclave(b, host, tier), held: map[string]uint64{}, values: map[string]string{}}
	var err error
	if e.key, err = recipient.Make(); err != nil {
		b.Fatal(err)
	}
	e.signed = b.sign(e, e.Epoch, now.Add(time.Hour))
	return e
}

func (b *bench) sign(e *enclave, epoch journal.EpochID, until time.Time) []byte {
	b.Helper()
	signed, err := e.key.Sign(e.Signer, epoch, until)
	if err != nil {
		b.Fatal(err)
	}
	return signed
}

func (e *enclave) request() *controllerv1.FetchSecretsRequest {
	r := &controllerv1.FetchSecretsRequest{Result: e.Result, Recipient: e.signed}
	for name, version := range e.held {
		r.Held = append(r.Held, &controllerv1.HeldSecret{Name: name, Version: version})
	}
	return r
}

// fetch asks once and takes in what comes. The result is what changed: name=version, or -name.
func (b *bench) fetch(s *secret.Service, e *enclave) (changes []string) {
	b.Helper()
	reply, err := s.Fetch(e.Context(context.Background()), e.request())
	if err != nil {
		b.Error(err)
		return nil
	}
	for _, c := range reply.GetSecrets() {
		text, err := e.key.Open(recipient.Label{Name: c.GetName(), Version: c.GetVersion(), Host: e.Host, Expires: c.GetExpiresUnix()}, c.GetEncapsulated(), c.GetCiphertext())
		if err != nil {
			b.Error(err)
		}
		e.held[c.GetName()], e.values[c.GetName()] = c.GetVersion(), string(text)
		changes = append(changes, fmt.Sprintf("%s=%d", c.GetName(), c.GetVersion()))
	}
	for _, name := range reply.GetGone() {
		delete(e.held, name)
		delete(e.values, name)
		changes = append(changes, "-"+name)
	}
	return changes
}

func (b *bench) wantFetch(e *enclave, want ...string) {
	b.Helper()
	if got := b.fetch(b.Service, e); !slices.Equal(got, want) {
		b.Errorf("%s: %q, want %q", e.Host, got, want)
	}
}

func (b *bench) audit() (lines []string) {
	b.Helper()
	if err := b.DB.View(b.Context(), func(tx *store.Tx) error {
		entries, err := tx.Entries(0, 10000)
		for _, e := range entries {
			lines = append(lines, e.Actor+" "+e.Action+" "+e.Subject+" "+e.Outcome)
		}
		return err
	}); err != nil {
		b.Fatal(err)
	}
	return lines
}

// dump is every row of every table that has something of secrets.
func (b *bench) dump() (out []byte) {
	b.Helper()
	if err := b.DB.View(b.Context(), func(tx *store.Tx) error {
		for _, query := range []string{
			`SELECT name, hosts, value FROM secrets`, `SELECT host, name, NULL FROM secrets_held`, `SELECT subject, outcome, NULL FROM audit`, `SELECT 'x', 'y', id FROM secrets_key`,
		} {
			if err := tx.Each(func(scan func(...any) error) error {
				var one, two string
				var raw []byte
				err := scan(&one, &two, &raw)
				out = append(append(append(out, one...), two...), raw...)
				return err
			}, query); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	return out
}
