#!/bin/sh
# Installs the programs of a folder, the units, the group and the user: install.sh BIN. DESTDIR makes a package's root, where
# no account is made and nothing is started.
set -eu
bin=$1
here=$(cd "$(dirname "$0")/.." && pwd)
prefix=${PREFIX:-/usr/local}
units=${UNITS:-/usr/lib/systemd/system}
root=${DESTDIR:-}

if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
	echo "install: run as root, or set DESTDIR" >&2
	exit 1
fi
install -d "$root$prefix/bin" "$root$units" "$root/usr/lib/sysusers.d" "$root/usr/lib/tmpfiles.d" \
	"$root$prefix/share/doc/raypher/docs" "$root$prefix/share/raypher/policies" "$root/etc/raypher/signers"
install -m 0755 "$bin/raypher" "$bin/raypher-cli" "$bin/raypherd" "$bin/raypher-enclave" "$bin/raypher-controller" "$root$prefix/bin/"
for unit in raypherd.service raypher-enclave.service raypher-controller.service; do
	sed "s#/usr/local#$prefix#g" "$here/deploy/$unit" >"$root$units/$unit"
	chmod 0644 "$root$units/$unit"
done
install -m 0644 "$here/deploy/raypher.sysusers" "$root/usr/lib/sysusers.d/raypher.conf"
install -m 0644 "$here/deploy/raypher.tmpfiles" "$root/usr/lib/tmpfiles.d/raypher.conf"
install -m 0644 "$here/README.md" "$here/LICENSE" "$root$prefix/share/doc/raypher/"
for page in "$here"/docs/*.md; do # which an archive for a host need not have
	[ ! -e "$page" ] || install -m 0644 "$page" "$root$prefix/share/doc/raypher/docs/"
done
install -m 0644 "$here"/examples/policies/*.yaml "$root$prefix/share/raypher/policies/"
install -m 0644 "$here/examples/ceiling.yaml" "$root$prefix/share/raypher/"

[ -z "$root" ] || exit 0
getent group raypher >/dev/null || groupadd --system raypher
getent passwd raypher-enclave >/dev/null ||
	useradd --system --user-group --no-create-home --home-dir /var/lib/raypher/enclave --shell /usr/sbin/nologin raypher-enclave
install -d -m 0755 /run/raypher /var/lib/raypher
install -d -m 0700 -o raypher-enclave -g raypher-enclave /run/raypher/enclave
install -d -m 0700 -o raypher-enclave -g raypher-enclave /var/lib/raypher/enclave
install -d -m 0700 /var/lib/raypher/journal
# The enclave serves one caller: the raypherd of this host.
if [ ! -e /etc/raypher/enclave/ibev.conf ]; then
	install -d -m 0755 /etc/raypher/enclave
	"$prefix/bin/raypherd" --caller-key >/etc/raypher/enclave/ibev.conf
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	echo "start it with: systemctl enable --now raypher-enclave raypherd"
	echo "it grants nothing before you sign a ceiling: the steps are at the top of $prefix/share/raypher/ceiling.yaml"
else
	echo "there is no systemd here; start it with: raypherd"
fi
echo "let a user run agents with: adduser USER raypher (effective at the next login)"
