// Package e2e tests the product as a user meets it: through raypher, raypherd and raypher-enclave, built from this tree and
// started as processes, in network and mount namespaces of the test's own. Every test needs root and says so when it is skipped.
package e2e

import (
	"os"
	"testing"

	"github.com/raypher/raypher/test/isolated"
)

// programs is the folder with the built programs.
var programs string

func TestMain(m *testing.M) {
	os.Exit(isolated.Run(m, map[string]string{
		"raypher": "raypher-run", "raypher-cli": "raypher", "raypherd": "raypherd", "raypher-enclave": "raypher-enclave",
	}, &programs))
}
