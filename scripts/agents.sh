#!/bin/sh
# Installs real agents from npm into a cache folder, side by side, and prints that folder: agents.sh [NAME...], by default all of
# examples/agents. Status 3: npm cannot be reached and one of them is not cached; the caller may skip, in words.
set -eu

here=$(cd "$(dirname "$0")/../examples/agents" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/raypher/agents
[ $# -gt 0 ] || set -- openclaw codex opencode claude-code

# install NAME: each of its packages in turn, since OpenClaw's own installation wants the node before it. All of it is put beside the
# goal and renamed at the end, so that a half installation is never used.
install() {
	part=$cache/.$1.part
	rm -rf "$part"
	mkdir -p "$part"
	while read -r package; do
		echo "agents: installing $package from npm" >&2
		PATH="$part/node_modules/node/bin:$PATH" npm install --prefix "$part" --no-audit --no-fund --loglevel=error "$package" >&2
	done <"$here/$1/packages"
	cp "$here/$1/packages" "$part/complete"
	rm -rf "${cache:?}/$1"
	mv "$part" "$cache/$1"
}

missing=
for name; do
	cmp -s "$here/$name/packages" "$cache/$name/complete" || missing="$missing $name"
done
if [ -n "$missing" ]; then
	if ! command -v npm >/dev/null; then
		echo "agents: there is no npm: run scripts/deps.sh" >&2
		exit 3
	fi
	if ! npm view "$(tail -n 1 "$here/codex/packages")" version >/dev/null 2>&1; then
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
