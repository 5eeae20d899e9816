#!/bin/sh
# Prints the path of an nginx to measure the gateway against: this machine's, or Debian's package unpacked into a cache folder, for
# installing it would start a server. Status 3: it cannot be had.
set -eu

for program in $(command -v nginx || true) /usr/sbin/nginx; do
	if [ -x "$program" ]; then
		echo "$program"
		exit 0
	fi
done
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/raypher/nginx
if [ ! -x "$cache/usr/sbin/nginx" ]; then
	mkdir -p "$cache"
	(cd "$cache" && apt-get download -qq nginx >&2 && dpkg -x nginx_*.deb .) || exit 3
fi
"$cache/usr/sbin/nginx" -v 2>/dev/null || exit 3
echo "$cache/usr/sbin/nginx"
