package daemon

import (
	"context"
	"fmt"
	"io"
	"os/exec"
)

// BenchmarkTPM measures the TPM of the options with the enclave's program, which alone talks to TPMs (no device: its
// default), and writes a table to out.
func BenchmarkTPM(ctx context.Context, o Options, out, errs io.Writer) error {
	binary, err := enclaveBinary(o.EnclaveBinary)
	if err != nil {
		return err
	}
	arguments := []string{"tpm", "benchmark", "--config", o.Paths.Keys}
	if o.TPMDevice != "" {
		arguments = append(arguments, "--tpm-device", o.TPMDevice)
	}
	benchmark := exec.CommandContext(ctx, binary, arguments...)
	benchmark.Stdout, benchmark.Stderr = out, errs
	if err := benchmark.Run(); err != nil {
		return fmt.Errorf("benchmark of the TPM: %w", err)
	}
	return nil
}
