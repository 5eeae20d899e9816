#!/bin/sh
# Runs everything that wants a kernel of its own in virtual machines: the programs under the oldest kernel that is supported and
# a newer one, both with Yama, which this machine's kernel need not have; the TPM signer over /dev/tpmrm0; the first process of
# enclave images. Needs root for missing packages only. What `make test` runs of it takes the kernel from RAYPHER_TEST_KERNEL too.
set -eu
cd "$(dirname "$0")/.."

scripts/deps.sh
RAYPHER_TEST_KERNEL=${RAYPHER_TEST_KERNEL:-$(scripts/guest-kernel.sh)}
RAYPHER_TEST_KERNELS=${RAYPHER_TEST_KERNELS:-$RAYPHER_TEST_KERNEL:$(scripts/guest-kernel.sh bookworm-backports)}
export RAYPHER_TEST_KERNEL RAYPHER_TEST_KERNELS
go test -count=1 -timeout 20m -v -run '^Test(Guests?|ImageBoots|HeartbeatReachesTheHost)$' ./test/vm ./enclave/image ./enclave/signer/tpm
