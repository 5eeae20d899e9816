package main

import (
	"bytes"
	"context"
	"flag"
	"strings"
	"testing"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
)

// The benchmark says of each operation how long it takes and why, and leaves no counter behind: it runs twice.
func TestBenchmark(t *testing.T) {
	device := tpmtest.Start(t, tpmtest.NewCA(t).Make(t)).Socket
	for range 2 {
		var out, errs bytes.Buffer
		if err := tpmCommand(context.Background(), []string{"benchmark", "--rounds", "3", "--tpm-device", device, "--config", t.TempDir()}, nil, &out, &errs); err != nil {
			t.Fatalf("%v\n%s", err, errs.String())
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		operations := []string{"sign ", "make attestation key ", "evidence ", "quote ", "NV increment "}
		if len(lines) != 1+len(operations) {
			t.Fatalf("%s", out.String())
		}
		for i, operation := range operations {
			if !strings.HasPrefix(lines[i+1], operation) || len(strings.Fields(lines[i+1])) < 8 {
				t.Errorf("%q: expected %q", lines[i+1], operation)
			}
		}
	}
}

// A wrong command line, and the wish for help, are answered without a TPM.
func TestTPMCommandLine(t *testing.T) {
	for _, c := range []struct {
		args        []string
		want, usage string
	}{
		{nil, "say what to do: identity, ", "usage: raypher-enclave tpm identity"},
		{[]string{"--help"}, flag.ErrHelp.Error(), "usage: raypher-enclave tpm identity"},
		{[]string{"seal", "--help"}, flag.ErrHelp.Error(), "usage: raypher-enclave tpm identity"},
		{[]string{"frob"}, `no "frob": say what to do: identity, `, ""},
		{[]string{"pcrs", "7"}, `unexpected argument "7"`, ""},
	} {
		var out, errs bytes.Buffer
		err := tpmCommand(context.Background(), c.args, nil, &out, &errs)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(errs.String(), c.usage) || out.Len() > 0 {
			t.Errorf("%q: %v\n%s%s", c.args, err, out.String(), errs.String())
		}
	}
}
