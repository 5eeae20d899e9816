#!/bin/sh
# Runs the TPM signer in a virtual machine over /dev/tpmrm0, alone. `make test` runs the same test among the others.
set -eu
cd "$(dirname "$0")/.."

scripts/deps.sh
if [ -z "${RAYPHER_TEST_KERNEL:-}" ]; then
	RAYPHER_TEST_KERNEL=$(scripts/guest-kernel.sh)
	export RAYPHER_TEST_KERNEL
fi
go test -count=1 -run '^TestGuest$' -v ./enclave/signer/tpm
