#!/bin/sh
# Compiles the BPF programs into the folder $1 (objects and Go types). Needs clang, llvm-strip and libbpf's headers.
# One object serves amd64 and arm64: the programs read no architecture's registers, and both are little-endian.
set -eu
cd "$(dirname "$0")"
out=$1
version=${CLANG:-$(command -v clang-14 || command -v clang)}
multiarch=/usr/include/$(uname -m)-linux-gnu

# compile NAME SOURCE TYPE...: the object and its bindings, with a Go type for each C structure or enumeration named.
# Objects must not depend on where they were built: paths are mapped away, and nothing is taken from the environment.
compile() {
	name=$1 source=$2
	shift 2
	GOPACKAGE=bpf go tool bpf2go -cc "$version" -strip "$(command -v llvm-strip-14 || command -v llvm-strip)" \
		-output-dir "$out" -target bpfel -tags linux -no-global-types $([ $# = 0 ] || printf -- ' -type %s' "$@") \
		"$name" "$source" -- \
		-g -O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-declarations -Wno-sign-compare \
		-Iinclude -I"$multiarch" -ffile-prefix-map="$PWD"=. -fdebug-compilation-dir=.
}

compile Netguard netguard/netguard.bpf.c \
	agent agent_entry term flow rule_key rule_said rule_id name_key name_grant server_key cut_name cut_said traffic_key traffic peer_key peer counters \
	rule cut severance fold_key fold event statistic operation layer reason mode
compile Walker walker/walker.bpf.c \
	asked said
compile Lsmguard lsmguard/lsmguard.bpf.c \
	agent object_key hash_key hash permit_key permit counters event \
	operation hook reason mode
compile Xdpguard xdpguard/xdpguard.bpf.c \
	wire lane passing_key dropped
compile Tally tally/tally.bpf.c
