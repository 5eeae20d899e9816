package signer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// MaxKeys bounds the further keys of one keyring: what a caller may have made fills neither disk nor memory.
const MaxKeys = 1024

// Keyring is a signer with further keys beside its own, each under a name and as well protected. A tier that cannot hold
// any is a Signer and nothing more; what needs further keys is then refused with words. Keys of a tier that are born with the
// process (nitro) end with it.
type Keyring interface {
	Signer

	// Key returns the key of that name, 1 to MaxKeyName bytes, and makes it the first time. The same name is the same key,
	// for as long as the signer's own key is the same. What it returns keeps the contract of Signer; its Close releases
	// nothing, and it ends with the keyring. Errors: ErrInput, ErrFull, ErrClosed, ErrDevice.
	Key(ctx context.Context, name string) (Signer, error)
}

// furtherPrefix begins the names of files of further keys. They lie beside the first key: the enclave's sandbox makes no folders.
const furtherPrefix = "further-"

// KeyPath is the file of a further key in a state folder, for tiers that keep keys in files. Names are hashed: they hold slashes, and
// may be long.
func KeyPath(state, name string) string {
	hash := sha256.Sum256([]byte(name))
	return filepath.Join(state, furtherPrefix+hex.EncodeToString(hash[:])+".key")
}

// CheckName holds the bounds of a further key's name.
func CheckName(name string) error {
	if name == "" || len(name) > MaxKeyName {
		return fmt.Errorf("key name of %d bytes, use 1 to %d: %w", len(name), MaxKeyName, ErrInput)
	}
	return nil
}

// RoomForKey says whether another further key may be made in a state folder.
func RoomForKey(state string) error {
	files, err := os.ReadDir(state)
	if err != nil {
		return fmt.Errorf("count keys: %w", err)
	}
	kept := 0
	for _, f := range files {
		if strings.HasPrefix(f.Name(), furtherPrefix) {
			kept++
		}
	}
	if kept >= MaxKeys {
		return fmt.Errorf("%w: %s holds %d: remove those of agents that are no more", ErrFull, state, kept)
	}
	return nil
}
