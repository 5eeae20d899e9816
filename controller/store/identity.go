package store

import "crypto/rand"

const identitySize = 16 // bytes

// Identity reads the database's identity as it is now: RenewIdentity of any process changes it.
func (tx *Tx) Identity() (identity []byte, err error) {
	err = tx.Get([]any{&identity}, `SELECT identity FROM database_identity`)
	return identity, err
}

// RenewIdentity draws another identity for the database. What was bound to the one before is void: it is for a database that was
// put back to an older state. DB.Identity of processes that run already does not change.
func (tx *Tx) RenewIdentity() error {
	identity := make([]byte, identitySize)
	rand.Read(identity) // never fails (crypto/rand)
	return tx.Exec(`UPDATE database_identity SET identity = ?`, identity)
}
