// Command program is the probe by itself: one static program (CGO_ENABLED=0) for every machine that the tests run in.
package main

import (
	"os"

	"github.com/raypher/raypher/test/probe"
)

func main() { os.Exit(probe.Main(os.Args[1:])) }
