package policy

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestSignature(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := files("filesystem: {read: [/a, /b]}")
	text, err := json.Marshal(p.Sign(private, "ops"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSignature(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(files("# the same\nfilesystem:\n  read: [/b, /a/, /a]"), public); err != nil {
		t.Errorf("the same policy in other words: %v", err)
	}
	if err := s.Verify(p, other); !errors.Is(err, ErrBadSignature) {
		t.Errorf("another key: %v", err)
	}
	if err := s.Verify(p, nil); !errors.Is(err, ErrBadSignature) {
		t.Errorf("no key: %v", err)
	}
	changed := files("filesystem: {read: [/a, /b, /c]}")
	if err := s.Verify(changed, public); !errors.Is(err, ErrPolicyChanged) {
		t.Errorf("another policy: %v", err)
	}
	s.PolicyHash = changed.HashText()
	if err := s.Verify(changed, public); !errors.Is(err, ErrBadSignature) {
		t.Errorf("another policy with its hash put in: %v", err)
	}
	for _, bad := range []string{"", "{", `{"algorithm":"RSA"}`, `{"algorithm":"Ed25519","x":1}`, strings.Repeat(" ", 5000)} {
		if _, err := ParseSignature([]byte(bad)); err == nil {
			t.Errorf("accepted %.40q", bad)
		}
	}
}
