#!/bin/sh
# Installs real agents from npm into a cache folder, side by side, and prints that folder: agents.sh [NAME...], by default all of
# examples/agents. NAME sdk: the providers' own SDKs, for test/sdk. Status 3: npm cannot be reached and one of them is not cached; the
# caller may skip, in words.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/raypher/agents
[ $# -gt 0 ] || set -- openclaw codex opencode claude-code

# list NAME prints the file with its packages.
list() {
	case $1 in
	sdk) echo "$root/test/sdk/packages" ;;
	*) echo "$root/examples/agents/$1/packages" ;;
	esac
}

# install NAME: each of its packages in turn, since OpenClaw's own installation wants the node before it. All of it is put beside the
# goal and renamed at the end, so that a half installation is never used.
install() {
	part=$cache/.$1.part
	rm -rf "$part"
	mkdir -p "$part"
	while read -r package; do
		echo "agents: installing $package from npm" >&2
		PATH="$part/node_modules/node/bin:$PATH" npm install --prefix "$part" --no-audit --no-fund --loglevel=error "$package" >&2
	done <"$(list "$1")"
	cp "$(list "$1")" "$part/complete"
	rm -rf "${cache:?}/$1"
	mv "$part" "$cache/$1"
}

# One installation at a time: tests and demonstrations may ask at once.
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9

missing=
for name; do
	cmp -s "$(list "$name")" "$cache/$name/complete" || missing="$missing $name"
done
if [ -n "$missing" ]; then
	if ! command -v npm >/dev/null; then
		echo "agents: there is no npm: run scripts/deps.sh" >&2
		exit 3
	fi
	if ! npm view "$(tail -n 1 "$(list codex)")" version >/dev/null 2>&1; then
		echo "agents: npm cannot be reached" >&2
		exit 3
	fi
	jobs=
	for name in $missing; do
		install "$name" &
		jobs="$jobs $!"
	done
	for job in $jobs; do
		wait "$job"
	done
fi
echo "$cache"
