// Command nitro-lab boots an enclave image on this machine, without AWS: see scripts/nitro-lab and docs/nitro.md. Nothing of it is an
// enclave, and its root of attestation is a test root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/raypher/raypher/lab/machine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "nitro-lab:", err)
		os.Exit(1)
	}
}

// Names in the folder.
const (
	rootFile         = "test-root.pem"
	measurementsFile = "measurements.json" // of the image, as raypher eif measure prints them
)

const usage = `nitro-lab: boot an enclave image in QEMU, with a Nitro Secure Module of our own.

usage: nitro-lab --image FILE --parts DIR --folder DIR

The console goes to standard output. The folder gets the socket of the machine's vsock device (vsock), the root of its documents
(` + rootFile + `) and the image's measurements (` + measurementsFile + `). An interrupt ends it.

flags:
`

func run(ctx context.Context, arguments []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("nitro-lab", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.Usage = func() {
		fmt.Fprint(log, usage)
		flags.PrintDefaults()
	}
	path := flags.String("image", "", "the image, as raypher eif build makes it with --heartbeat-cid 2")
	from := flags.String("parts", os.Getenv(machine.FolderVariable), "folder with the machine's parts, as scripts/nitro-parts.sh prints it (default: $"+machine.FolderVariable+")")
	folder := flags.String("folder", "", "folder for sockets and the test root; a short path, private, without another machine in it")
	memory := flags.Int("memory", 512, "of the machine, in MiB")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *path == "" || *from == "" || *folder == "" || flags.NArg() > 0 {
		return errors.New("--image, --parts and --folder, and nothing else: see --help")
	}
	image, err := os.ReadFile(*path)
	if err != nil {
		return err
	}
	parts, err := machine.ReadParts(*from)
	if err != nil {
		return err
	}
	heart, err := machine.TakeHeartbeat(*folder)
	if err != nil {
		return err
	}
	defer heart.Close()
	m, err := machine.Start(ctx, machine.Options{
		Image: image, Folder: *folder, Memory: *memory, Console: out, Log: log, QEMU: parts.QEMU, Vsock: parts.Vsock,
	})
	if err != nil {
		return err
	}
	root := filepath.Join(*folder, rootFile)
	if err := os.WriteFile(root, m.Module.RootPEM(), 0o644); err != nil {
		return errors.Join(err, m.Close())
	}
	measured, err := m.Measurements.MarshalJSON()
	if err != nil {
		return errors.Join(err, m.Close())
	}
	measurements := filepath.Join(*folder, measurementsFile)
	if err := os.WriteFile(measurements, measured, 0o644); err != nil {
		return errors.Join(err, m.Close())
	}
	fmt.Fprintf(log, `THIS IS A LABORATORY AND NO ENCLAVE: this machine's root can read all of its memory, and its documents end at a TEST ROOT.
Nothing accepts that root unless it is told to: --root %s
raypherd --nitro-enclave --enclave-vsock-uds %s --nitro-root %s --enclave-measurements %s
measurements: %s
`, root, m.VsockPath(), root, measurements, measured)
	err = m.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}
