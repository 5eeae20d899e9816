package attest_test

import (
	"errors"
	"io"
	"testing"

	"github.com/raypher/raypher/attest"
)

const check attest.Check = "nonce"

func TestRefusalIsOneLine(t *testing.T) {
	for reason, want := range map[string]string{
		"differs":                 "nonce: differs",
		`issuer "a" is not "b"`:   `nonce: issuer "a" is not "b"`,
		"two\nlines\x1b[2J\u202e": `nonce: two\nlines\x1b[2J\u202e`,
		`back\slash "\`:           `nonce: back\\slash "\\`,
		"":                        "nonce: ",
	} {
		if got := attest.Refuse(check, "%s", reason).Error(); got != want {
			t.Errorf("%q: got %q, want %q", reason, got, want)
		}
	}
}

func TestRefusalIsItsCheckAndItsReason(t *testing.T) {
	err := attest.Refuse(check, "reading: %w", io.ErrUnexpectedEOF)
	var refusal *attest.Refusal
	if !errors.Is(err, check) || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &refusal) || refusal.Check != check {
		t.Errorf("got %v", err)
	}
	if errors.Is(err, attest.Check("chain")) {
		t.Error("a refusal for another check")
	}
}
