package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/boot"
	"github.com/raypher/raypher/enclave/signer/tpm"
)

const tpmUsage = `raypher-enclave tpm: talk to this host's TPM, without serving.

usage: raypher-enclave tpm identity [flags] > IDENTITY
       raypher-enclave tpm activate [flags] < NAME.challenge > ANSWER
       raypher-enclave tpm benchmark [flags]
       raypher-enclave tpm pcrs [flags] > PCRS
       raypher-enclave tpm seal --policy-key KEY.pub --policy POLICY [flags] < SECRET > SEALED
       raypher-enclave tpm unseal --policy POLICY [flags] < SEALED > SECRET
       raypher-enclave tpm reseal --policy POLICY [flags] < SEALED > SEALED

identity and activate are the machine's side of an activation (see raypher attest challenge). benchmark measures signing,
evidence, quotes and an NV counter that it makes and removes, with a key of its own that it throws away. pcrs prints the registers
that tpm.conf names, for ` + "`raypher seal policy`" + `. seal binds a secret to this TPM and to policies of one key; unseal opens it in a
state of the machine that a policy approves; reseal does both, so that policies older than the one that opened it are over.

flags:
`

// tpmActions are what can be done without serving.
var tpmActions = []string{"identity", "activate", "benchmark", "pcrs", "seal", "unseal", "reseal"}

// tpmCommand is `raypher-enclave tpm`. The TPM is opened when the command line is known to be right.
func tpmCommand(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) error {
	var device, config string
	var rounds int
	flags := flag.NewFlagSet("raypher-enclave tpm", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.Usage = func() {
		fmt.Fprint(errs, tpmUsage)
		flags.PrintDefaults()
	}
	flags.StringVar(&device, "tpm-device", boot.DefaultTPM, "the TPM")
	flags.StringVar(&config, "config", boot.DefaultConfig, "folder with tpm.conf, if there is one")
	var sealing sealFlags
	sealing.add(flags)
	flags.IntVar(&rounds, "rounds", 50, "how often benchmark measures")
	if len(args) == 0 {
		flags.Usage()
		return errors.New("tpm: say what to do: " + strings.Join(tpmActions, ", "))
	}
	if strings.HasPrefix(args[0], "-") { // --help, mostly
		if err := flags.Parse(args); err != nil {
			return err
		}
	}
	if !slices.Contains(tpmActions, args[0]) {
		return fmt.Errorf("tpm: no %q: say what to do: %s", args[0], strings.Join(tpmActions, ", "))
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("tpm: unexpected argument %q", flags.Arg(0))
	}
	configuration, err := tpm.ReadConfiguration(filepath.Join(config, tpm.ConfigurationFile))
	if err != nil {
		return err
	}
	opened, err := tpm.OpenDevice(device)
	if err != nil {
		return err
	}
	switch args[0] {
	case "identity":
		id, err := tpm.Identify(ctx, opened, configuration)
		if err != nil {
			return err
		}
		_, err = out.Write(id.Encode())
		return err
	case "activate":
		return activate(ctx, opened, configuration, in, out)
	case "benchmark":
		return benchmark(ctx, opened, configuration, rounds, out)
	case "pcrs":
		return printPCRs(ctx, opened, configuration, out)
	case "seal":
		return sealing.seal(ctx, opened, configuration, in, out)
	case "unseal", "reseal":
		return sealing.unseal(ctx, opened, configuration, in, out, args[0] == "reseal")
	}
	opened.Close()
	return fmt.Errorf("tpm %q: use identity, activate, benchmark, pcrs, seal, unseal or reseal", args[0])
}

func activate(ctx context.Context, device *tpm.Device, c tpm.Configuration, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(in, attest.MaxStructureSize+1))
	if err != nil {
		return err
	}
	m, err := attest.ParseMessage(text)
	if err != nil {
		return err
	}
	answer, err := tpm.AnswerChallenge(ctx, device, c, m)
	if err != nil {
		return err
	}
	_, err = out.Write(answer)
	return err
}

func benchmark(ctx context.Context, device *tpm.Device, c tpm.Configuration, rounds int, out io.Writer) error {
	dir, err := os.MkdirTemp("", "raypher-benchmark-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	key, _, err := tpm.Open(ctx, tpm.Options{TPM: device, State: dir, Configuration: c})
	if err != nil {
		return err
	}
	defer key.Close()
	timings, err := key.Benchmark(ctx, rounds)
	fmt.Fprintf(out, "%-22s %8s %10s %10s %10s  %s\n", device, "rounds", "min", "median", "p99", "what it is")
	for _, t := range timings {
		fmt.Fprintf(out, "%-22s %8d %10s %10s %10s  %s\n", t.Operation, t.Rounds, short(t.Min), short(t.Median), short(t.P99), t.Why)
	}
	return err
}

func short(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
