#!/bin/sh
# Runs everything that wants a kernel of its own in virtual machines: the programs under the oldest kernel that is supported and
# a newer one, both with Yama, with files held by the broker and by programs of BPF LSM, which this machine's kernel need not have, and on arm64; the TPM signer over /dev/tpmrm0; the first
# process of enclave images; an enclave over vsock. Needs root for missing packages only. Part of it runs in `make test`, which sets RAYPHER_TEST_KERNEL.
set -eu
cd "$(dirname "$0")/.."

scripts/deps.sh
if ! command -v qemu-system-aarch64 >/dev/null; then
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends qemu-system-arm
fi
RAYPHER_TEST_KERNEL=${RAYPHER_TEST_KERNEL:-$(scripts/guest-kernel.sh)}
RAYPHER_TEST_KERNELS=${RAYPHER_TEST_KERNELS:-$RAYPHER_TEST_KERNEL:$(scripts/guest-kernel.sh bookworm-backports):$(scripts/guest-kernel.sh bookworm arm64)}
RAYPHER_TEST_LSM_KERNELS=${RAYPHER_TEST_LSM_KERNELS:-$(scripts/guest-kernel.sh):$(scripts/guest-kernel.sh bookworm-backports)}
export RAYPHER_TEST_KERNEL RAYPHER_TEST_KERNELS RAYPHER_TEST_LSM_KERNELS
go test -count=1 -timeout 90m -v -run '^Test(Guests?|FilesHeldInGuests|FileGuard|UncalledPrograms|TableInGuests|BypassInGuests|VsockGuest|ImageBoots|HeartbeatReachesTheHost)$' ./test/vm ./enclave/image ./enclave/signer/tpm
