package mint

import (
	"errors"
	"strings"
	"testing"

	"github.com/raypher/raypher/enclave/keys"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/visa"
)

var ownKeyCeiling = strings.Replace(testCeiling, "namespace: dev\n", "namespace: dev\n    own_key: true\n", 1)

// Where the ceiling says so, a visa verifies under the key of its namespace as under that of the enclave, minted by either way in.
func TestOwnKey(t *testing.T) {
	m, key := newMintUnder(t, ownKeyCeiling, &startconf.Configuration{}, nil)
	r := goodRequest(t)
	if taken, err := m.TryMint(r, func(*Ticket) { t.Error("called") }); taken || err != nil {
		t.Fatalf("before the key was made: %v, %v", taken, err)
	}
	first, err := m.Mint(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	tickets := make(chan *Ticket, 1)
	if taken, err := m.TryMint(r, func(ticket *Ticket) { tickets <- ticket }); !taken || err != nil {
		t.Fatalf("%v, %v", taken, err)
	}
	second, err := (<-tickets).Visa()
	if err != nil {
		t.Fatal(err)
	}
	own := m.opts.Keys.Ready(journal.PurposeNamespace, "dev")
	if own == nil {
		t.Fatal("no key of the namespace")
	}
	ownKey, err := journal.NewKey(own.Public())
	if err != nil {
		t.Fatal(err)
	}
	other, err := m.opts.Keys.Get(t.Context(), journal.PurposeNamespace, "prod")
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := journal.NewKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, reply := range []*enclavev1.MintReply{first, second} {
		for _, c := range []struct {
			trust *journal.Key
			want  error
		}{{key, nil}, {ownKey, nil}, {otherKey, visa.ErrKey}} {
			if _, err := visa.Verify(reply.GetVisa(), visa.Options{Keys: []*journal.Key{c.trust}, AllowSoftware: true}); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		}
	}
}

// oneKey is a signer of a tier that holds one key.
type oneKey struct{ signer.Signer }

func softwareKey(t *testing.T) signer.Signer {
	t.Helper()
	key, _, err := software.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A tier without further keys refuses what the ceiling wants them for, and grants nothing under the enclave's key alone.
func TestOwnKeyWithoutKeyring(t *testing.T) {
	m, _ := newMintUnder(t, ownKeyCeiling, &startconf.Configuration{}, nil)
	plain, _ := newMint(t, &startconf.Configuration{}, nil)
	if _, err := plain.Mint(t.Context(), goodRequest(t)); err != nil {
		t.Errorf("without own_key: %v", err)
	}
	m.opts.Keys = keys.New(keys.Options{Signer: oneKey{softwareKey(t)}, Journal: m.opts.Journal})
	if _, err := m.Mint(t.Context(), goodRequest(t)); !errors.Is(err, keys.ErrNone) || !strings.Contains(err.Error(), "namespace dev") {
		t.Errorf("error %v, want ErrNone", err)
	}
}
