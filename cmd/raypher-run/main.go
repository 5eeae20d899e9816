// Command raypher-run is installed as `raypher`. It starts agents itself (run, and warden, which run starts beside each agent)
// and leaves every other command, and every command line of these two that is not plainly right, to the program of all
// commands, cmd/raypher, which is installed as raypher-cli beside it.
//
// The two are apart because each start of an agent waits for this program twice: it links neither gRPC nor protocol buffers nor
// anything else that a start does not need, and so is ready in a third of the time. TestLight holds that.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/cmd/internal/start"
	"github.com/raypher/raypher/parent/launch"
)

func main() {
	var err error
	code := 1
	switch command, arguments := split(os.Args); command {
	case "run":
		var o launch.Options
		set := flags(command)
		start.RunFlags(set, &o)
		if set.Parse(arguments) != nil {
			err, code = all(), launch.CodeGuard
			break
		}
		failed := start.Run(o, set.Args())
		err, code = failed.Err, failed.Code
	case "warden":
		var f start.WardenFlags
		set := flags(command)
		f.Define(set)
		if set.Parse(arguments) != nil || set.NArg() > 0 {
			err = all()
			break
		}
		if err = start.Warden(f); err == nil {
			return
		}
	default:
		err = all()
	}
	if !errors.Is(err, start.ErrTold) {
		fmt.Fprintln(os.Stderr, "raypher:", err)
	}
	os.Exit(code)
}

// split returns the command and what follows it.
func split(argv []string) (command string, arguments []string) {
	if len(argv) < 2 {
		return "", nil
	}
	return argv[1], argv[2:]
}

// flags is a set that says nothing itself.
func flags(command string) *pflag.FlagSet {
	set := pflag.NewFlagSet(command, pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	return set
}

// all becomes the program of all commands, with the same command line. It returns only when that failed.
func all() error {
	const name = "raypher-cli"
	path, err := launch.FindBinary(name)
	if err != nil {
		return fmt.Errorf("help and every command but run are in another program: %w", err)
	}
	err = unix.Exec(path, append([]string{os.Args[0]}, os.Args[1:]...), os.Environ())
	return fmt.Errorf("%s: %w", filepath.Clean(path), err)
}
