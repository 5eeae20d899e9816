#!/bin/sh
# Prints a folder with what the laboratory's machines are made of: a QEMU that takes devices of other processes, a vsock device for it,
# and a Linux with the driver of Nitro Secure Modules. All of it comes from Debian's packages, of newer suites than this machine's may be, is
# unpacked with the libraries that it needs and not installed, and is kept in the user's cache: 60 MB of downloads, once. This
# machine's lists of packages stay as they are.
set -eu

if [ "$(uname -m)" != x86_64 ]; then
	echo "nitro-parts: the laboratory's machines are for x86-64, and this one is $(uname -m)" >&2
	exit 1
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/raypher/nitro
parts=$cache/1 # another number when what follows changes
if [ -d "$parts" ]; then
	echo "$parts"
	exit 0
fi
for program in apt-get dpkg-deb xz; do
	if ! command -v "$program" >/dev/null; then
		echo "nitro-parts: $program is missing: this is for Debian and its kind" >&2
		exit 1
	fi
done
# The mirror that this machine uses anyway.
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' | awk '$1 == "Debian" && NF == 2 { print $2; exit }')
if [ -z "$mirror" ]; then
	echo "nitro-parts: apt knows no source of Debian's packages: run apt-get update, on Debian" >&2
	exit 1
fi
mkdir -p "$cache"
folder=$(mktemp -d "$cache/new-XXXXXX")
trap 'rm -rf "$folder"' EXIT
chmod 0755 "$folder" # apt downloads as a user of its own

# from SUITES PACKAGE OPTION...: the package, unpacked into a folder of its own.
from() {
	suites=$1
	package=$2
	shift 2
	own=$folder/apt-$package
	mkdir -p "$own/lists/partial" "$own/cache/archives/partial" "$folder/$package"
	: >"$own/status"
	for suite in $suites; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
	done >"$own/sources.list"
	cat >"$own/apt.conf" <<-CONF
		Dir::Etc::sourcelist "$own/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::State "$own";
		Dir::State::status "$own/status";
		Dir::Cache "$own/cache";
		APT::Install-Recommends "false";
	CONF
	if ! { APT_CONFIG=$own/apt.conf apt-get -qq update && (cd "$own" && APT_CONFIG=$own/apt.conf fetch "$package" "$@"); } >"$own/said" 2>&1; then
		echo "nitro-parts: $package from $suites:" >&2
		cat "$own/said" >&2
		exit 1
	fi
	for deb in "$own"/*.deb "$own"/cache/archives/*.deb; do
		[ -e "$deb" ] && dpkg-deb -x "$deb" "$folder/$package"
	done
	rm -rf "$own"
}
# fetch PACKAGE [with-libraries] gets a package, or everything that it needs on an empty machine.
fetch() {
	if [ "${2:-}" = with-libraries ]; then
		apt-get -y --download-only -t trixie-backports install "$1"
	else
		found=$(apt-cache depends "$1" | awk '/Depends: linux-image-/ { print $2; exit }')
		apt-get download "${found:-$1}"
	fi
}

from "trixie trixie-backports" qemu-system-x86 with-libraries
from sid vhost-device-vsock
from bookworm-backports linux-image-cloud-amd64

mkdir "$folder/modules"
n=0
for module in drivers/virtio/virtio_mmio drivers/misc/nsm net/vmw_vsock/vsock net/vmw_vsock/vmw_vsock_virtio_transport_common net/vmw_vsock/vmw_vsock_virtio_transport; do
	xz -dc "$folder"/linux-image-cloud-amd64/lib/modules/*/kernel/$module.ko.xz >"$folder/modules/0$n-${module##*/}.ko"
	n=$((n + 1))
done
mv "$folder"/linux-image-cloud-amd64/boot/vmlinuz-* "$folder/vmlinuz"
mv "$folder/vhost-device-vsock/usr/bin/vhost-device-vsock" "$folder/vsock"
rm -rf "$folder/linux-image-cloud-amd64" "$folder/vhost-device-vsock"
mv "$folder/vsock" "$folder/vhost-device-vsock"
# QEMU runs with the libraries of its own suite.
cat >"$folder/qemu" <<'QEMU'
#!/bin/sh
root=$(dirname "$0")/qemu-system-x86
libraries=$root/usr/lib/x86_64-linux-gnu
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$(find "$libraries" -mindepth 1 -type d -printf '%p:')" \
	"$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
QEMU
chmod 0755 "$folder/qemu"
"$folder/qemu" --version >/dev/null
mv "$folder" "$parts" 2>/dev/null || [ -d "$parts" ] # another one may have been faster
trap - EXIT
echo "$parts"
