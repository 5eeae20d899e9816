// Command bench is `make bench`: it measures what the guard costs, each figure beside the same work without it, in one run,
// as a ratio and as CPU time per operation. Absolute times drift from machine to machine; ratios hold.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/raypher/raypher/examples/stage"
)

// roleWork makes this program the work that is measured: bench work NAME COUNT [ADDRESS].
const roleWork = "work"

func main() {
	err := run(os.Args[1:])
	if err != nil {
		if !errors.Is(err, stage.ErrReported) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) > 0 && arguments[0] == roleTurns {
		return takeTurns(arguments[1:])
	}
	if len(arguments) >= 3 && arguments[0] == roleWork {
		count, err := strconv.Atoi(arguments[2])
		if err != nil {
			return err
		}
		return work(arguments[1], count)
	}
	return stage.Play(arguments, measureAll)
}

func measureAll(arguments []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	programs := flags.String("programs", "bin", "folder with raypher, raypherd and raypher-enclave")
	agents := flags.Int("agents", 200, "how many agents to run at once")
	files := flags.Bool("files", false, "only the figures about files and programs")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	bin, err := filepath.Abs(*programs)
	if err != nil {
		return err
	}
	return measure(os.Stdout, bin, *agents, *files)
}
