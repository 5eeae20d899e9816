package signer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// KeyFolder is where tiers that keep further keys in files keep them, in the state folder, mode 0700.
const KeyFolder = "keys"

// KeyPath is the file of a further key in a state folder. Names are hashed: they hold slashes, and may be long.
func KeyPath(state, name string) string {
	hash := sha256.Sum256([]byte(name))
	return filepath.Join(state, KeyFolder, hex.EncodeToString(hash[:])+".key")
}

// CheckName holds the bounds of a further key's name.
func CheckName(name string) error {
	if name == "" || len(name) > MaxKeyName {
		return fmt.Errorf("key name of %d bytes, use 1 to %d: %w", len(name), MaxKeyName, ErrInput)
	}
	return nil
}

// RoomForKey makes the folder of further keys in a state folder, and says whether another one may be made in it.
func RoomForKey(state string) error {
	folder := filepath.Join(state, KeyFolder)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("folder of keys: %w", err)
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("folder of keys: %w", err)
	}
	if len(files) >= MaxKeys {
		return fmt.Errorf("%w: %s holds %d: remove those of agents that are no more", ErrFull, folder, len(files))
	}
	return nil
}
