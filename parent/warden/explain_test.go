package warden

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/raypher/raypher/parent/attend"
)

// answer is a session of one answer.
type answer struct {
	message *attend.ParentMessage
	sent    error
}

func (a answer) Send(*attend.WardenMessage) error { return a.sent }
func (a answer) CloseSend() error                 { return nil }
func (a answer) Recv() (*attend.ParentMessage, error) {
	if a.message == nil {
		return nil, io.EOF
	}
	return a.message, nil
}

// TestExplain: raypherd is said to be away only when it did not answer itself.
func TestExplain(t *testing.T) {
	refused := func(reason string) *attend.ParentMessage {
		return &attend.ParentMessage{Refused: &attend.Refused{Reason: reason}}
	}
	for _, c := range []struct {
		answer answer
		want   string
		away   bool
	}{
		{answer{nil, errors.New("broken pipe")}, "EOF", true},
		{answer{refused("the enclave granted nothing: enclave is unreachable"), nil}, "unreachable", false},
		{answer{refused("policy.yaml:1:1: unknown key"), errors.New("broken pipe")}, "policy.yaml:1:1", false},
		{answer{nil, attend.ErrTooLarge}, "too large", false},
		{answer{&attend.ParentMessage{Seen: &attend.Seen{}}, nil}, "something else", false},
	} {
		_, err := begin(c.answer, &attend.Launch{}, nil)
		if err == nil {
			t.Errorf("%+v: granted", c)
			continue
		}
		if away := strings.Contains(err.Error(), "cannot be reached"); away != c.away || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := Dial(t.TempDir() + "/nothing")(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("a socket that is not there: %v", err)
	}
}
