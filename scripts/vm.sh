#!/bin/sh
# Runs everything that wants a kernel of its own in virtual machines: the programs under the oldest kernel that is supported and
# a newer one, both with Yama, which this machine's kernel need not have, and on arm64; the TPM signer over /dev/tpmrm0; the first
# process of enclave images; an enclave over vsock. Needs root for missing packages only. Part of it runs in `make test`, which sets RAYPHER_TEST_KERNEL.
set -eu
cd "$(dirname "$0")/.."

scripts/deps.sh
if ! command -v qemu-system-aarch64 >/dev/null; then
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends qemu-system-arm
fi
RAYPHER_TEST_KERNEL=${RAYPHER_TEST_KERNEL:-$(scripts/guest-kernel.sh)}
RAYPHER_TEST_KERNELS=${RAYPHER_TEST_KERNELS:-$RAYPHER_TEST_KERNEL:$(scripts/guest-kernel.sh bookworm-backports):$(scripts/guest-kernel.sh bookworm arm64)}
export RAYPHER_TEST_KERNEL RAYPHER_TEST_KERNELS
go test -count=1 -timeout 20m -v -run '^Test(Guests?|VsockGuest|ImageBoots|HeartbeatReachesTheHost)$' ./test/vm ./enclave/image ./enclave/signer/tpm
