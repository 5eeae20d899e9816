package warden

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// TestExplain: raypherd is said to be away only when it did not answer itself.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		code     codes.Code
		message  string
		answered bool // raypherd gave the status
		away     bool
	}{
		{codes.Unavailable, "connection error: desc = \"transport: dial unix /run/enclave/raypherd.sock: connection refused\"", false, true},
		{codes.Unavailable, "the enclave granted nothing: enclave is unreachable", true, false},
		{codes.Unavailable, "the enclave of another machine", false, true},
		{codes.InvalidArgument, "policy.yaml:1:1: unknown key", false, false},
	} {
		s := status.New(c.code, c.message)
		if c.answered {
			var err error
			if s, err = s.WithDetails(&parentv1.Answered{}); err != nil {
				t.Fatal(err)
			}
		}
		got := explain(s.Err()).Error()
		if away := strings.Contains(got, "cannot be reached"); away != c.away || !strings.Contains(got, c.message) {
			t.Errorf("%v %q: %s", c.code, c.message, got)
		}
	}
}
