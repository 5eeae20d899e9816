#!/bin/sh
# Compiles the BPF sources again and compares the result with the committed objects, so that neither changes alone. Objects
# differ between compilers: with another clang than the committed ones were made with, only compiling is checked, and said.
set -eu
cd "$(dirname "$0")/.."
[ -d bpf ] || exit 0
if ! command -v clang >/dev/null; then
	echo "SKIPPED BPF objects against their source: there is no clang"
	exit 0
fi
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard bpf go.mod go.sum | tar --null -cf - -T - | tar -xf - -C "$copy"
(cd "$copy" && go generate ./bpf/...)
made_with=$(cat bpf/CLANG 2>/dev/null || echo "clang version 14")
if clang --version | head -1 | grep -qF "$made_with"; then
	diff -r bpf "$copy/bpf"
	echo "the committed objects are what $made_with makes of the source"
else
	echo "SKIPPED comparing BPF objects: made with $made_with, here is $(clang --version | head -1); the sources compile"
fi
