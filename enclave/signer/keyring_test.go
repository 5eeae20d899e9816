package signer

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// What callers may have made fills no disk.
func TestRoomForKey(t *testing.T) {
	state := t.TempDir()
	for i := range MaxKeys {
		if err := RoomForKey(state); err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
		if err := os.WriteFile(KeyPath(state, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RoomForKey(state); !errors.Is(err, ErrFull) {
		t.Errorf("%d keys: error %v, want ErrFull", MaxKeys, err)
	}
}
