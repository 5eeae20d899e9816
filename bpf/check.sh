#!/bin/sh
# Builds the BPF programs again and compares them with the committed objects and bindings. Exit 1: they differ.
set -eu
cd "$(dirname "$0")"
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
./build.sh "$new"
for f in "$new"/*; do
	cmp "$f" "$(basename "$f")" || { echo "bpf/$(basename "$f"): not what the sources compile to: run go generate ./bpf and commit" >&2; exit 1; }
done
