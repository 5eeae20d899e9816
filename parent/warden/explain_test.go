package warden

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestExplain: raypherd is said to be away only when it did not answer itself.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		code    codes.Code
		message string
		away    bool
	}{
		{codes.Unavailable, "connection error: desc = \"transport: dial unix /run/enclave/raypherd.sock: connection refused\"", true},
		{codes.Unavailable, "the enclave granted nothing: enclave is unreachable", false},
		{codes.InvalidArgument, "policy.yaml:1:1: unknown key", false},
	} {
		got := explain(status.Error(c.code, c.message)).Error()
		if away := strings.Contains(got, "cannot be reached"); away != c.away || !strings.Contains(got, c.message) {
			t.Errorf("%v %q: %s", c.code, c.message, got)
		}
	}
}
