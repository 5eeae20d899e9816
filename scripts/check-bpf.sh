#!/bin/sh
# Compares the committed BPF objects with what their sources compile to, so that neither changes alone. Compilers differ in
# what they make: without the one that made the committed objects, only compiling is checked, and that is said.
set -eu
cd "$(dirname "$0")/.."
made_with="clang version 14"
compiler=$(command -v clang-14 || command -v clang || true)
if [ -z "$compiler" ]; then
	echo "SKIPPED BPF objects against their source: there is no clang: scripts/deps.sh"
	exit 0
fi
if "$compiler" --version | grep -qF "$made_with"; then
	bpf/check.sh
	echo "the committed objects are what $made_with makes of the sources"
	exit 0
fi
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
bpf/build.sh "$new"
echo "SKIPPED comparing BPF objects: they were made with $made_with, here is $("$compiler" --version | head -1); the sources compile"
