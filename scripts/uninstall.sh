#!/bin/sh
# Takes away what install.sh put there. Journals and keys in /var/lib/raypher and policies in /etc/raypher stay.
set -eu
prefix=${PREFIX:-/usr/local}
units=${UNITS:-/usr/lib/systemd/system}
root=${DESTDIR:-}

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
	systemctl disable --now raypherd raypher-enclave raypher-controller 2>/dev/null || true
fi
rm -f "$root$prefix/bin/raypher" "$root$prefix/bin/raypher-cli" "$root$prefix/bin/raypherd" "$root$prefix/bin/raypher-enclave" "$root$prefix/bin/raypher-controller" \
	"$root$units/raypherd.service" "$root$units/raypher-enclave.service" "$root$units/raypher-controller.service" "$root$units/raypherd.service.d/nitro.conf" \
	"$root/usr/lib/sysusers.d/raypher.conf" "$root/usr/lib/tmpfiles.d/raypher.conf"
rm -rf "$root$prefix/share/doc/raypher" "$root$prefix/share/raypher" "$root$prefix/lib/raypher"
rmdir "$root$units/raypherd.service.d" 2>/dev/null || true # a drop-in that somebody else put there stays
[ -z "$root" ] || exit 0
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if getent passwd raypher-enclave >/dev/null; then userdel raypher-enclave; fi
if getent group raypher >/dev/null; then groupdel raypher; fi
echo "journals and keys remain in /var/lib/raypher, policies in /etc/raypher"
