package link

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestPinIsNeverReplaced: the key of an enclave that another process has met meanwhile is not passed over.
func TestPinIsNeverReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), PinFile)
	first, err := openPin(nil, file)
	if err != nil {
		t.Fatal(err)
	}
	second, err := openPin(nil, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.check([32]byte{1}); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.check([32]byte{2}); !errors.Is(err, ErrPeer) || second.hash() != nil {
		t.Errorf("another key after the first was pinned: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("%q, %v", after, err)
	}
}
