package attestation

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/controller/store"
)

// References are the golden measurements in force: one list that a golden key has signed, in the database, versions only upwards.
type References struct {
	Keys [][]byte // PKIX DER, of those who sign lists

	mu     sync.Mutex
	file   []byte // of opened
	opened *golden.List
}

// Put opens a signed list and puts it in force in tx, unless the one in force is newer or another one of the same version: then the error is a
// refusal of golden.CheckVersion.
func (r *References) Put(tx *store.Tx, file []byte) (*golden.List, error) {
	list, err := golden.Open(file, r.Keys)
	if err != nil {
		return nil, err
	}
	known, err := r.Current(tx)
	if err == nil {
		err = list.Follows(known)
	} else if errors.Is(err, ErrNoReferences) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return list, tx.Exec(`INSERT INTO measurements (one, version, list) VALUES (1, ?, ?)
		ON CONFLICT (one) DO UPDATE SET version = excluded.version, list = excluded.list`, int64(list.Version), file)
}

// ErrNoReferences: no list was put in force yet.
var ErrNoReferences = attest.Refuse(golden.CheckValues, "no golden measurements are in force: put a signed list with `raypher fleet measurements`")

// Current is the list in force. It was verified when it was put, and is again: who can write the database cannot put one in force.
func (r *References) Current(tx *store.Tx) (*golden.List, error) {
	var file []byte
	err := tx.Get([]any{&file}, `SELECT list FROM measurements`)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoReferences
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opened == nil || !bytes.Equal(r.file, file) {
		list, err := golden.Open(file, r.Keys)
		if err != nil {
			return nil, err
		}
		r.file, r.opened = file, list
	}
	return r.opened, nil
}

// Read is Current in a transaction of its own.
func (r *References) Read(ctx context.Context, db *store.DB) (list *golden.List, err error) {
	err = db.View(ctx, func(tx *store.Tx) error {
		list, err = r.Current(tx)
		return err
	})
	return list, err
}
