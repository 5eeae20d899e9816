#!/bin/sh
# Prints the path of a Linux kernel for tests in virtual machines, FOLDER/boot/vmlinuz-VERSION with its modules in
# FOLDER/lib/modules. It comes from Debian's packages, is unpacked and not installed, and is kept in the user's cache; this
# machine's own lists of packages stay as they are.
#
#   guest-kernel.sh [SUITE [ARCHITECTURE]]    bookworm (Linux 6.1, the default) or bookworm-backports (a newer one); amd64 or arm64
set -eu
suite=${1:-bookworm} architecture=${2:-amd64}

fail() {
	echo "guest-kernel: $suite: $1" >&2
	exit 1
}
# The mirror that this machine uses anyway.
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 2>/dev/null | awk '$1 == "Debian" && NF == 2 { print $2; exit }')
[ -n "$mirror" ] || fail "no source of Debian's packages is set up here"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/raypher/guest
mkdir -p "$cache"
new=$(mktemp -d "$cache/new-XXXXXX")
trap 'rm -rf "$new"' EXIT
chmod 0755 "$new" # apt downloads as a user of its own
mkdir -p "$new/lists/partial" "$new/cache/archives/partial"
: >"$new/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$new/sources.list"
apt() {
	program=$1
	shift
	"$program" -qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o Dir::Etc::sourcelist="$new/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$new" \
		-o Dir::State::status="$new/status" -o Dir::Cache="$new/cache" "$@" 2>"$new/said"
}
apt apt-get update || fail "$(cat "$new/said")"
package=$(apt apt-cache depends linux-image-cloud-$architecture | awk '/Depends:/ { print $2; exit }')
[ -n "$package" ] || fail "there is no linux-image-cloud-$architecture"
own=$cache/$package.d
if [ ! -d "$own" ]; then
	(cd "$new" && apt apt-get download "$package") || fail "$(cat "$new/said")"
	mkdir "$new/unpacked"
	dpkg-deb --fsys-tarfile "$new"/*.deb | tar -x -C "$new/unpacked" ./boot ./lib/modules
	mv -T "$new/unpacked" "$own" 2>/dev/null || [ -d "$own" ] # another one was faster
fi
ls "$own"/boot/vmlinuz-*
