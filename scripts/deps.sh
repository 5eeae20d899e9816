#!/bin/sh
# Installs from Debian's packages what the tests and demonstrations use and this machine lacks. Needs root; does nothing,
# quickly, where everything is there. Go itself is expected.
set -eu

# The system's own programs count, not those that some version manager has put into this user's PATH.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
missing=
# need COMMAND PACKAGE
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }

need clang clang          # the check of BPF objects against their source
[ -n "$(ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a 2>/dev/null)" ] || missing="$missing libclang-rt-14-dev" # libFuzzer
need llvm-strip llvm
need protoc protobuf-compiler
need ip iproute2
need tmux tmux            # terminals in the end-to-end tests
need python3 python3-minimal
need node nodejs
need npm npm
need curl curl
need dig bind9-dnsutils
need perl perl-base
need ssh openssh-client; need nc netcat-openbsd # what agents are not to run
need iodine iodine        # a tunnel through DNS
need hping3 hping3; need nft nftables # packets made by hand; what the network guard is measured against
need gcc gcc              # the race detector
need cpio cpio            # a second reader of enclave ramdisks
need swtpm swtpm; need swtpm_setup swtpm-tools; need tpm2_create tpm2-tools # TPMs in tests
need qemu-system-x86_64 qemu-system-x86 # a kernel's /dev/tpmrm0 in tests
[ -n "$(ls /usr/lib/*/ossl-modules/tpm2.so 2>/dev/null)" ] || missing="$missing tpm2-openssl"
[ -n "$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" ] || missing="$missing postgresql" # the controller's other database
[ -e /usr/include/bpf/bpf_helpers.h ] || missing="$missing libbpf-dev"
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
# BPF sources include asm/types.h, which Debian keeps in a folder of the architecture.
[ -n "$(ls /usr/include/*/asm/types.h 2>/dev/null)" ] || missing="$missing linux-libc-dev"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps: these Debian packages are missing, install them as root:$missing" >&2
	exit 1
fi
echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # the packages are words
apt-get install -qq -y --no-install-recommends $missing
