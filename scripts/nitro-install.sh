#!/bin/sh
# Installs on a Nitro host: nitro-install.sh BIN. What install.sh does, and then the enclave's unit that runs an image with nitro-cli in the place
# of the bare-metal one, a drop-in for raypherd, and /etc/raypher/nitro.conf, which is kept where it exists. DESTDIR, PREFIX and UNITS as there.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
prefix=${PREFIX:-/usr/local}
units=${UNITS:-/usr/lib/systemd/system}
root=${DESTDIR:-}

"$here/scripts/install.sh" "$1"
install -d "$root$prefix/lib/raypher" "$root$units/raypherd.service.d" "$root/var/lib/raypher/nitro"
install -m 0755 "$here/scripts/nitro-run.sh" "$root$prefix/lib/raypher/nitro-run"
for unit in raypher-enclave.service raypherd.service.d/nitro.conf; do
	sed "s#/usr/local#$prefix#g" "$here/deploy/nitro/$unit" >"$root$units/$unit"
	chmod 0644 "$root$units/$unit"
done
[ -e "$root/etc/raypher/nitro.conf" ] || install -m 0644 "$here/deploy/nitro/nitro.conf" "$root/etc/raypher/nitro.conf"
[ -n "$root" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
echo "put the image to /var/lib/raypher/nitro/raypher.eif and its measurements to /etc/raypher/measurements.json; $prefix/share/doc/raypher/docs/nitro.md goes on from here"
