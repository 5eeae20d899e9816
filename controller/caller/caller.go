// Package caller says what the services of the controller need to know of who calls: each asks before it does anything else, and
// in the transaction that it works in, so that a host which was removed meanwhile gets nothing.
package caller

import (
	"context"

	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/journal"
)

// Callers knows callers by the key of their TLS connection, which is in the context of a call. What it refuses is a gRPC status,
// UNAUTHENTICATED or PERMISSION_DENIED, with words for the caller. It is safe for concurrent use.
type Callers interface {
	// Operator refuses whoever is none. actor is the caller's key for the audit, sha256:<hex>.
	Operator(ctx context.Context) (actor string, err error)
	// Enclave refuses whoever is no enclave of an enrolled host with a valid result of this controller over exactly the key with which
	// it calls. result is the JWT that the caller sent; empty: the newest one on record for this key counts.
	Enclave(ctx context.Context, tx *store.Tx, result string) (*Enclave, error)
	// Parent refuses whoever is not the parent of an enrolled host, and returns the host's name.
	Parent(ctx context.Context, tx *store.Tx) (host string, err error)
}

// Enclave is an attested caller, as its result says.
type Enclave struct {
	Actor string // its key for the audit, sha256:<hex>
	Host  string
	Tier  string // of package journal
	Key   *journal.Key
	Epoch journal.EpochID
}
