#!/bin/sh
# Prints the path of a Linux kernel with TPM drivers, for tests in a virtual machine. It comes from Debian's packages, is unpacked
# and not installed, and is kept in the user's cache.
set -eu

package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends:/ { print $2; exit }')
if [ -z "$package" ]; then
	echo "guest-kernel: apt knows no linux-image-cloud-amd64: run apt-get update, on Debian" >&2
	exit 1
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/raypher/guest
kernel=$cache/$package
if [ ! -s "$kernel" ]; then
	mkdir -p "$cache"
	folder=$(mktemp -d "$cache/new-XXXXXX")
	trap 'rm -rf "$folder"' EXIT
	chmod 0755 "$folder" # apt downloads as a user of its own
	(cd "$folder" && apt-get download -qq "$package" >/dev/null 2>&1 && dpkg-deb -x ./*.deb .) || {
		echo "guest-kernel: the package $package could not be had" >&2
		exit 1
	}
	mv "$folder"/boot/vmlinuz-* "$kernel"
fi
echo "$kernel"
