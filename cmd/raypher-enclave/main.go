// Command raypher-enclave is the trusted service: it holds the signing key, writes the journal and mints visas. It sandboxes
// itself before it serves and talks to one authenticated parent only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/raypher/raypher/enclave/boot"
	"github.com/raypher/raypher/enclave/pid1"
)

// version is set by the linker (-X main.version=...).
var version = "devel"

// memoryLimit is where the garbage collector stops trading memory for time, in bytes.
const memoryLimit = 128 << 20

func main() {
	if pid1.Is() {
		pid1.Run(os.Stderr)
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "tpm" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := tpmCommand(ctx, os.Args[2:], os.Stdin, os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "raypher-enclave:", err)
			os.Exit(1)
		}
		return
	}
	options, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "raypher-enclave:", err)
		os.Exit(2)
	}
	if options == nil {
		fmt.Println("raypher-enclave", version)
		return
	}
	// The heap is a few megabytes, so collecting less often costs little memory and saves a tenth of the time under load.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(memoryLimit)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := boot.Run(ctx, *options); err != nil {
		fmt.Fprintln(os.Stderr, "raypher-enclave:", err)
		os.Exit(1)
	}
}

const usage = `raypher-enclave: the trusted service of Raypher: signing key, journal and mint.

usage: raypher-enclave --listen unix:PATH|vsock:PORT --state DIR --config FILE|DIR [flags]
       raypher-enclave tpm ACTION [flags]      (raypher-enclave tpm --help)

Before it serves it drops to an unprivileged user, gives up every capability, and confines itself to its state
folder and its socket (Landlock, seccomp). SIGTERM ends it; what was not acknowledged was not released.

flags:
`

// parse reads the flags. Without error and options it was --version.
func parse(args []string, out io.Writer) (*boot.Options, error) {
	var (
		o           = boot.Options{Version: version}
		showVersion bool
	)
	flags := flag.NewFlagSet("raypher-enclave", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprint(out, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.Listen, "listen", boot.DefaultListen, "where to serve: unix:PATH (in a folder that only root and the enclave's user can enter), or vsock:PORT on any context id; vsock alone means port 5000")
	flags.StringVar(&o.State, "state", boot.DefaultState, "folder of the key and the ceiling; made if missing, owned by --user, mode 0700")
	flags.StringVar(&o.Config, "config", boot.DefaultConfig, "start configuration: a file, or a folder with ibev.conf, or vsock:PORT, where the first one that comes in is taken; vsock alone means port 5001")
	flags.BoolVar(&o.Development, "dev", false, "development: make a missing operator key and a ceiling that permits everything, and say so")
	flags.StringVar(&o.User, "user", "", "user to become, a name or UID[:GID]; as root by default raypher-enclave, or uid 64742 where there is no such user")
	flags.StringVar(&o.Signer, "signer", "software", "where the signing key lies: software (a file), tpm, or nitro (the memory of a Nitro enclave)")
	flags.StringVar(&o.ClockSource, "clock-source", "", "with --signer nitro: what the kernel's clock has to be, for machines that only imitate an enclave (default: kvm-clock, on arm64 arch_sys_counter)")
	flags.StringVar(&o.TPMDevice, "tpm-device", "", "the TPM of --signer tpm: a character device, or the socket of a simulator (default "+boot.DefaultTPM+")")
	flags.BoolVar(&o.NoSandbox, "insecure-no-sandbox", false, "serve even where this kernel cannot confine the process; whoever breaks into it then has what its user has")
	flags.BoolVar(&o.UntilStdinCloses, "until-stdin-closes", false, "write a line to standard output when ready, and end when standard input reaches its end: for a parent that starts this process and must not leave it behind")
	flags.BoolVar(&showVersion, "version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if showVersion {
		return nil, nil
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: see --help", flags.Arg(0))
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return &o, nil
}
