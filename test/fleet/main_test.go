// Package fleet tests a host with its controller as an operator meets them: raypher-controller, raypherd and raypher-enclave, built from this
// tree and started as processes, in network and mount namespaces of the test's own. It needs root and says so when it is skipped.
package fleet

import (
	"os"
	"testing"

	"github.com/raypher/raypher/test/isolated"
)

// programs is the folder with the built programs.
var programs string

func TestMain(m *testing.M) {
	os.Exit(isolated.Run(m, map[string]string{
		"raypher": "raypher-run", "raypher-cli": "raypher", "raypherd": "raypherd", "raypher-enclave": "raypher-enclave", "raypher-controller": "raypher-controller",
	}, &programs))
}
