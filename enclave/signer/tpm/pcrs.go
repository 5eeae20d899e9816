package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
)

// ReadPCRs reads registers of the SHA-256 bank, DefaultPCRs without any. Nothing vouches for the values: a quote is Evidence's
// to make. It closes the device.
func ReadPCRs(ctx context.Context, device transport.TPMCloser, pcrs []uint) (out []attest.PCR, err error) {
	if len(pcrs) == 0 {
		pcrs = DefaultPCRs
	}
	k := withoutKey(device, Configuration{})
	defer k.Close()
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		out, err = readPCRs(tpm, pcrs)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("PCRs: %w", deviceError(err))
	}
	return out, nil
}
