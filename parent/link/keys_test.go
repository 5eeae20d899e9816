package link

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
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

// A key that takes another's place leaves that on record, newest first and no more than maxReplaced; a reader finds both again.
func TestReplacedKeysAreRemembered(t *testing.T) {
	file := filepath.Join(t.TempDir(), PinFile)
	p, err := openPin(nil, file)
	if err != nil {
		t.Fatal(err)
	}
	const keys = maxReplaced + 5
	for i := range byte(keys) {
		if err := p.replace([32]byte{i}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // one that comes back stands once
		if err := p.replace([32]byte{keys - 3}); err != nil {
			t.Fatal(err)
		}
	}
	want := [][32]byte{{keys - 3}, {keys - 1}, {keys - 2}}
	for i := keys - 4; len(want) <= maxReplaced; i-- {
		want = append(want, [32]byte{byte(i)})
	}
	got, err := Pins(file)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%x, %v", got, err)
	}
	if again, err := openPin(nil, file); err != nil || *again.hash() != want[0] || again.check(want[1]) == nil {
		t.Errorf("a replaced key is still the pin: %v", err)
	}
	for _, text := range []string{"", "\n", "sha256:00\n", string(content(want)) + string(content(want[:1]))} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openPin(nil, file); err == nil {
			t.Errorf("%.30q is taken", text)
		}
	}
}
