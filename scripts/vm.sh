#!/bin/sh
# Runs the programs in virtual machines: the oldest kernel that is supported and a newer one, both with Yama, which this machine's
# kernel need not have. QEMU and the kernels come from Debian's packages; the kernels are unpacked, not installed, and this
# machine's lists of packages stay as they are. Needs root for a missing QEMU only.
set -eu
cd "$(dirname "$0")/.."

if [ "$(uname -m)" != x86_64 ]; then
	echo "vm: the virtual machines are for x86-64, and this one is $(uname -m): nothing was run" >&2
	exit 0
fi
if ! command -v qemu-system-x86_64 >/dev/null; then
	if [ "$(id -u)" != 0 ]; then
		echo "vm: qemu-system-x86_64 is missing: install the package qemu-system-x86" >&2
		exit 1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends qemu-system-x86
fi

if [ -z "${RAYPHER_TEST_KERNELS:-}" ]; then
	folder=$(mktemp -d)
	trap 'rm -rf "$folder"' EXIT
	# The mirror that this machine uses anyway.
	mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' | awk '$1 == "Debian" && NF == 2 { print $2; exit }')
	if [ -z "$mirror" ]; then
		echo "vm: no source of Debian's packages: name kernels in RAYPHER_TEST_KERNELS, separated by colons" >&2
		exit 1
	fi
	for suite in bookworm bookworm-backports; do
		own="$folder/$suite"
		mkdir -p "$own/lists/partial" "$own/cache/archives/partial" "$own/kernel"
		: >"$own/status"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$own/sources.list"
		apt() {
			program=$1
			shift
			"$program" -qq -o Dir::Etc::sourcelist="$own/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$own" \
				-o Dir::State::status="$own/status" -o Dir::Cache="$own/cache" "$@" 2>"$own/said"
		}
		package=
		if apt apt-get update; then
			package=$(apt apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
		fi
		if [ -z "$package" ] || ! (cd "$own" && apt apt-get download "$package"); then
			echo "vm: no kernel from $suite:" >&2
			cat "$own/said" >&2
			exit 1
		fi
		dpkg-deb --fsys-tarfile "$own"/*.deb | tar -x -C "$own/kernel" ./boot
		RAYPHER_TEST_KERNELS="${RAYPHER_TEST_KERNELS:+$RAYPHER_TEST_KERNELS:}$(ls "$own"/kernel/boot/vmlinuz-*)"
	done
	export RAYPHER_TEST_KERNELS
fi
go test -count=1 -timeout 20m -v ./test/vm
