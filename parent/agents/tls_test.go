package agents

import (
	"errors"
	"testing"
)

// TestHandshakesAreBounded: each signature is an entry of the journal, which an agent must not be able to fill.
func TestHandshakesAreBounded(t *testing.T) {
	a := &Agent{id: "a"}
	for range visaBurst {
		if err := a.takeTLS(); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	for range visaBurst { // some have become free meanwhile
		err = errors.Join(err, a.takeTLS())
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("after %d at once: %v, want ErrFull", 2*visaBurst, err)
	}
	if !a.visas.take() {
		t.Error("handshakes take visas from the agent")
	}
}
