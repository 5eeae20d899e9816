package boot

import (
	"os"
	"runtime"
	"strings"
)

// takeProcessors bounds how many processors this process computes on at once. GOMAXPROCS in the environment says otherwise.
func takeProcessors(listen string) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(listen, runtime.GOMAXPROCS(0)))
	}
}

// processors is the enclave's share of as many: all in a machine of its own, half where it shares them with the parent and the agents.
// A visa passes through it in steps that follow each other: more threads would wake each other for each of them, which cost a
// tenth to a fifth of the processor time of a visa.
func processors(listen string, available int) int {
	if strings.HasPrefix(listen, "vsock") {
		return available
	}
	return (available + 1) / 2
}
