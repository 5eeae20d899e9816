#!/bin/sh
# Installs the real OpenClaw, and the node that it needs, from npm into a cache folder, and prints that folder.
# Usage: openclaw.sh. Status 3: npm cannot be reached and nothing is cached; the caller may skip, in words.
set -eu

openclaw=2026.9.6
node=26

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/raypher/openclaw-$openclaw-node-$node
if [ -e "$cache/complete" ]; then
	echo "$cache"
	exit 0
fi
if ! command -v npm >/dev/null; then
	echo "openclaw: there is no npm: run scripts/deps.sh" >&2
	exit 3
fi
if ! npm view "openclaw@$openclaw" version >/dev/null 2>&1; then
	echo "openclaw: npm cannot be reached" >&2
	exit 3
fi

# Both are installed beside the goal and renamed at the end, so that a half installation is never used.
rm -rf "$cache.part"
mkdir -p "$cache.part/node" "$cache.part/claw"
quiet="--no-audit --no-fund --loglevel=error"
echo "openclaw: installing node@$node and openclaw@$openclaw from npm (about 700 MB, once)" >&2
# shellcheck disable=SC2086 # the options are words
npm install --prefix "$cache.part/node" $quiet "node@$node" >&2
# shellcheck disable=SC2086
PATH="$cache.part/node/node_modules/node/bin:$PATH" npm install --prefix "$cache.part/claw" $quiet "openclaw@$openclaw" >&2
"$cache.part/node/node_modules/node/bin/node" --version >&2
touch "$cache.part/complete"
rm -rf "$cache"
mv "$cache.part" "$cache"
echo "$cache"
