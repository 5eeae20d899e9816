#!/bin/sh
# Boots enclave images in a virtual machine: the first process, its modules and its heartbeat on a real kernel. Gets QEMU and a
# kernel from Debian's packages; the kernel is unpacked, not installed. Needs root for missing packages only.
set -eu
cd "$(dirname "$0")/.."

if ! command -v qemu-system-x86_64 >/dev/null; then
	if [ "$(id -u)" != 0 ]; then
		echo "enclave-guest: qemu-system-x86_64 is missing: install the package qemu-system-x86" >&2
		exit 1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends qemu-system-x86
fi

if [ -z "${RAYPHER_TEST_KERNEL:-}" ]; then
	folder=$(mktemp -d)
	trap 'rm -rf "$folder"' EXIT
	package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
	(cd "$folder" && apt-get download -qq "$package" 2>/dev/null && dpkg-deb -x ./*.deb .)
	RAYPHER_TEST_KERNEL=$(ls "$folder"/boot/vmlinuz-*)
	export RAYPHER_TEST_KERNEL
fi
go test -count=1 -run '^Test(Guest|ImageBoots|HeartbeatReachesTheHost)$' -v ./enclave/image
