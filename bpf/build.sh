#!/bin/sh
# Compiles the BPF programs into the folder $1 (objects and Go types). Needs clang, llvm-strip and libbpf's headers.
# One object serves amd64 and arm64: the programs read no architecture's registers, and both are little-endian.
set -eu
cd "$(dirname "$0")"
out=$1
version=${CLANG:-$(command -v clang-14 || command -v clang)}
multiarch=/usr/include/$(uname -m)-linux-gnu
# The objects must not depend on where they were built: paths are mapped away, and nothing is taken from the environment.
GOPACKAGE=bpf go tool bpf2go -cc "$version" -strip "$(command -v llvm-strip-14 || command -v llvm-strip)" \
	-output-dir "$out" -target bpfel -tags linux -no-global-types \
	-type agent -type flow -type rule_key -type name_key -type name_grant -type peer_key -type peer -type counters \
	-type fold_key -type fold -type event -type statistic -type operation -type layer -type reason -type mode \
	Netguard netguard/netguard.bpf.c -- \
	-g -O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-declarations -Wno-sign-compare \
	-Iinclude -I"$multiarch" -ffile-prefix-map="$PWD"=. -fdebug-compilation-dir=.
