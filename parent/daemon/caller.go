package daemon

import (
	"fmt"
	"os"

	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/link"
)

// CallerLine returns the line by which the start configuration of an enclave that somebody else starts lets this raypherd
// call it. The key is made if it is missing.
func CallerLine(p instance.Paths) (string, error) {
	if err := os.MkdirAll(p.Keys, 0o700); err != nil {
		return "", fmt.Errorf("caller key: %w", err)
	}
	caller, err := link.OpenCaller(p.Keys)
	if err != nil {
		return "", fmt.Errorf("caller key: %w", err)
	}
	return "caller_key = " + caller.Hash().String(), nil
}
