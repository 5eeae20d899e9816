package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/enclave/image"
	"github.com/raypher/raypher/enclave/pid1"
	"github.com/spf13/cobra"
)

// Defaults of `eif build`.
const (
	// defaultCommandLine resets the machine when the kernel panics, and leaves out what enclaves do not have.
	defaultCommandLine = "reboot=k panic=1 pci=off console=ttyS0 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd random.trust_cpu=on"
	defaultImageName   = "raypher-enclave"
)

// defaultArguments are those of raypher-enclave in an image.
var defaultArguments = []string{"--signer", "nitro", "--listen", "vsock:5000", "--config", "vsock:5001"}

// eifBuild are the flags of `eif build`.
type eifBuild struct {
	kernel, kernelConfig, commandLine string
	program                           string
	modules, ramdisks                 []string
	heartbeat                         uint32
	name, imageVersion, metadata, out string
	arguments                         []string
}

func eifBuildCommand() *cobra.Command {
	b := eifBuild{arguments: defaultArguments}
	c := &cobra.Command{
		Use:   "build --kernel FILE (--enclave-binary FILE | --ramdisk FILE...) --out IMAGE [flags] [-- ARGUMENTS]",
		Short: "Build an enclave image from a kernel and a static program",
		Long: `Build an image in the Enclave Image Format, without Docker or root, and print its PCR values. The same inputs make the same bytes.

With --enclave-binary the ramdisks are made here: the first one holds folders, devices and the modules given, the second one the
static program of raypher-enclave (make enclave), which is also the first process, and ARGUMENTS, with which it serves. Without
ARGUMENTS: --signer nitro --listen vsock:5000 --config vsock:5001. With --ramdisk they are taken as they are.

The time in the metadata is SOURCE_DATE_EPOCH, in seconds, or 1970 where that is not set.`,
		RunE: func(c *cobra.Command, args []string) error {
			if dash := c.ArgsLenAtDash(); dash > 0 || dash < 0 && len(args) > 0 {
				return &exitError{code: 2, err: fmt.Errorf("eif build: unexpected argument %q: what the enclave is started with stands after --", args[0])}
			}
			if len(args) > 0 {
				b.arguments = args
			}
			raw, err := b.build(os.Getenv("SOURCE_DATE_EPOCH"))
			if err == nil {
				err = writeImage(c.OutOrStdout(), b.out, raw)
			}
			if err != nil {
				return fmt.Errorf("eif build: %w", err)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&b.kernel, "kernel", "", "kernel: a bzImage, or an Image on arm64")
	f.StringVar(&b.kernelConfig, "kernel-config", "", "the kernel's configuration, for its version in the metadata (default: what the kernel says)")
	f.StringVar(&b.commandLine, "cmdline", defaultCommandLine, "the kernel's command line")
	f.StringVar(&b.program, "enclave-binary", "", "the static program of raypher-enclave")
	f.StringArrayVar(&b.modules, "module", nil, "kernel module to load before the program serves, like nsm.ko; not compressed (may be repeated, in that order)")
	f.Uint32Var(&b.heartbeat, "heartbeat-cid", pid1.NitroParent, "vsock context id that is told of the start, on port 9000; 0: nobody")
	f.StringArrayVar(&b.ramdisks, "ramdisk", nil, "ready-made ramdisk, instead of --enclave-binary and --module (may be repeated; the first one is the boot ramdisk)")
	f.StringVar(&b.name, "name", defaultImageName, "name in the metadata")
	f.StringVar(&b.imageVersion, "image-version", version, "version in the metadata")
	f.StringVar(&b.metadata, "metadata", "", "JSON file with metadata of your own")
	f.StringVar(&b.out, "out", "", "where to write the image")
	require(c, "kernel", "out")
	return c
}

// maxInput bounds each file that goes into an image, in bytes.
const maxInput = eif.MaxSize

func (b *eifBuild) build(epoch string) ([]byte, error) {
	made, err := buildTime(epoch)
	if err != nil {
		return nil, err
	}
	contents := eif.Contents{
		CommandLine: b.commandLine, Name: b.name, Version: b.imageVersion, Time: made, Tool: "raypher", ToolVersion: version,
	}
	if contents.Kernel, err = readBounded(b.kernel, maxInput); err != nil {
		return nil, fmt.Errorf("--kernel: %w", err)
	}
	if b.kernelConfig != "" {
		text, err := readBounded(b.kernelConfig, maxInput)
		if err != nil {
			return nil, fmt.Errorf("--kernel-config: %w", err)
		}
		if contents.KernelVersion, err = eif.ParseKernelConfig(text); err != nil {
			return nil, fmt.Errorf("--kernel-config %s: %w", b.kernelConfig, err)
		}
	}
	if b.metadata != "" {
		if contents.CustomMetadata, err = readBounded(b.metadata, eif.MaxMetadata); err != nil {
			return nil, fmt.Errorf("--metadata: %w", err)
		}
	}
	if contents.Ramdisks, err = b.makeRamdisks(); err != nil {
		return nil, err
	}
	return eif.Build(contents)
}

func (b *eifBuild) makeRamdisks() ([][]byte, error) {
	if (b.program == "") == (len(b.ramdisks) == 0) {
		return nil, errors.New("give either --enclave-binary or --ramdisk")
	}
	if len(b.ramdisks) > 0 {
		if len(b.modules) > 0 {
			return nil, errors.New("--module goes with --enclave-binary: a ready-made ramdisk is taken as it is")
		}
		var all [][]byte
		for _, name := range b.ramdisks {
			raw, err := readBounded(name, maxInput)
			if err != nil {
				return nil, fmt.Errorf("--ramdisk: %w", err)
			}
			all = append(all, raw)
		}
		return all, nil
	}
	var modules []image.Module
	for _, name := range b.modules {
		raw, err := readBounded(name, maxInput)
		if err != nil {
			return nil, fmt.Errorf("--module: %w", err)
		}
		modules = append(modules, image.Module{Name: name, Content: raw})
	}
	boot, err := image.Boot(modules)
	if err != nil {
		return nil, fmt.Errorf("--module: %w", err)
	}
	program, err := readBounded(b.program, maxInput)
	if err != nil {
		return nil, fmt.Errorf("--enclave-binary: %w", err)
	}
	application, err := image.Application(program, pid1.Start{HeartbeatCID: b.heartbeat, Arguments: b.arguments})
	if err != nil {
		return nil, fmt.Errorf("--enclave-binary %s: %w", b.program, err)
	}
	return [][]byte{boot, application}, nil
}

// buildTime reads SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch).
func buildTime(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Unix(0, 0), nil
	}
	seconds, err := strconv.ParseUint(epoch, 10, 37) // until year 6325
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: not a number of seconds", epoch)
	}
	return time.Unix(int64(seconds), 0), nil
}
