// Package host keeps what the controller knows of the hosts of its fleet, and knows callers by it.
//
// An operator names a host with its tier and the key of its parent; evidence binds it to an identity and leaves the key of its
// enclave, which is who may speak for the host until another one is attested.
package host

import (
	"errors"
	"fmt"
	"time"

	"github.com/raypher/raypher/controller/store"
)

// ErrUnknown: no host of that name or key.
var ErrUnknown = errors.New("no such host")

// Affirming is the verdict of good evidence, None that of none yet; any other verdict is the check that failed last.
const (
	Affirming = "affirming"
	None      = "none"
)

// Host is a row of the table. Keys are sha256:<hex>; empty: none yet.
type Host struct {
	Name       string
	Tier       string
	CallerKey  string // of its parent
	Identity   string // to which good evidence bound it
	EnclaveKey string // of the newest good evidence
	Epoch      []byte // of the same
	Verdict    string
	Judged     time.Time // when Verdict was given
	Attested   time.Time // newest good evidence
	// ResultExpires is the end of the newest result.
	ResultExpires  time.Time
	Measurements   string // name of the golden set that matched
	Configuration  string // hex hash
	CeilingVersion uint64
	// What the parent reported last.
	Seen     time.Time
	Agents   uint32
	Version  string
	Policies string // JSON, as package fleet writes it
}

const columns = `name, tier, caller_key, identity, enclave_key, epoch, verdict, judged, attested, result_expires, measurements, configuration,
	ceiling_version, seen, agents, version, policies`

// where reads the one host for which a condition holds.
func where(tx *store.Tx, condition string, args ...any) (*Host, error) {
	var found *Host
	err := each(tx, func(h *Host) { found = h }, condition, args...)
	if err == nil && found == nil {
		err = ErrUnknown
	}
	return found, err
}

func each(tx *store.Tx, f func(*Host), condition string, args ...any) error {
	return tx.Each(func(scan func(...any) error) error {
		var h Host
		var judged, attested, expires, seen int64
		if err := scan(&h.Name, &h.Tier, &h.CallerKey, &h.Identity, &h.EnclaveKey, &h.Epoch, &h.Verdict, &judged, &attested, &expires,
			&h.Measurements, &h.Configuration, &h.CeilingVersion, &seen, &h.Agents, &h.Version, &h.Policies); err != nil {
			return err
		}
		h.Judged, h.Attested, h.ResultExpires, h.Seen = store.Time(judged), store.Time(attested), store.Time(expires), store.Time(seen)
		f(&h)
		return nil
	}, `SELECT `+columns+` FROM hosts `+condition, args...)
}

// Named returns the host of a name; ErrUnknown: there is none.
func Named(tx *store.Tx, name string) (*Host, error) { return where(tx, `WHERE name = ?`, name) }

// OfParent returns the host whose parent has a key.
func OfParent(tx *store.Tx, key string) (*Host, error) { return where(tx, `WHERE caller_key = ?`, key) }

// OfEnclave returns the host whose newest good evidence was about a key.
func OfEnclave(tx *store.Tx, key string) (*Host, error) {
	return where(tx, `WHERE enclave_key = ? AND enclave_key <> ''`, key)
}

// Taken is the name of a host other than this one that has a key, or an identity that begins with machine, which has no wildcard; empty: none.
func Taken(tx *store.Tx, name, machine, key string) (string, error) {
	h, err := where(tx, `WHERE name <> ? AND (identity LIKE ? OR enclave_key = ?) ORDER BY name LIMIT 1`, name, machine+"%", key)
	if errors.Is(err, ErrUnknown) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return h.Name, nil
}

// After returns hosts by name, from the first one behind a name on; empty: from the beginning.
func After(tx *store.Tx, name string, limit int) (hosts []*Host, err error) {
	err = each(tx, func(h *Host) { hosts = append(hosts, h) }, `WHERE name > ? ORDER BY name LIMIT ?`, name, limit)
	return hosts, err
}

// Save writes a host, new or not. An error of two hosts with one parent key is for the caller to prevent, by OfParent.
func (h *Host) Save(tx *store.Tx) error {
	if h.Epoch == nil {
		h.Epoch = []byte{}
	}
	return tx.Exec(`INSERT INTO hosts (`+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET tier = excluded.tier, caller_key = excluded.caller_key, identity = excluded.identity,
		enclave_key = excluded.enclave_key, epoch = excluded.epoch, verdict = excluded.verdict, judged = excluded.judged,
		attested = excluded.attested, result_expires = excluded.result_expires, measurements = excluded.measurements,
		configuration = excluded.configuration, ceiling_version = excluded.ceiling_version, seen = excluded.seen, agents = excluded.agents,
		version = excluded.version, policies = excluded.policies`,
		h.Name, h.Tier, h.CallerKey, h.Identity, h.EnclaveKey, h.Epoch, h.Verdict, store.Millis(h.Judged), store.Millis(h.Attested),
		store.Millis(h.ResultExpires), h.Measurements, h.Configuration, int64(h.CeilingVersion), store.Millis(h.Seen), int64(h.Agents), h.Version, h.Policies)
}

// Remove takes a host away, with what is known of the secrets that it holds: from then on its enclave's results count for nothing here.
func Remove(tx *store.Tx, name string) error {
	n, err := tx.Change(`DELETE FROM hosts WHERE name = ?`, name)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	for _, statement := range []string{`DELETE FROM secrets_held WHERE host = ?`, `DELETE FROM host_budgets WHERE host = ?`} {
		if err == nil {
			err = tx.Exec(statement, name)
		}
	}
	return err
}
