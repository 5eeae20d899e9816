#!/bin/sh
# Prints what `make bench` prints: the facts of the machine, the product measured from outside, and the benchmarks of the
# parts, each of which reports what it is compared with beside its own figure.
set -eu
cd "$(dirname "$0")/.."
bin=${1:-bin}

echo "machine: $(nproc) CPUs, $(uname -srm), $(go version | cut -d' ' -f3)"
if [ "$(id -u)" = 0 ]; then
	CGO_ENABLED=0 go build -trimpath -o "$bin/bench" ./test/bench
	"$bin/bench" -programs "$bin"
else
	echo "SKIPPED what needs root: starts, connects, 200 agents"
fi
echo
# The enclave in the laboratory; without its parts the benchmark says that it is skipped.
if RAYPHER_NITRO_LAB=$(scripts/nitro-parts.sh); then
	export RAYPHER_NITRO_LAB
else
	unset RAYPHER_NITRO_LAB
fi
# What the gateway is measured beside.
if nginx=$(scripts/nginx.sh); then
	export RAYPHER_NGINX="$nginx"
fi
# Files held by programs of BPF LSM, in virtual machines.
if held=$(scripts/guest-kernel.sh) && newer=$(scripts/guest-kernel.sh bookworm-backports); then
	export RAYPHER_TEST_LSM_KERNELS="$held:$newer"
fi
# Benchmarks that start agents need what the demonstrations need; run as root.
for package in $(git grep -l '^func Benchmark' -- '*_test.go' | xargs -n1 dirname | sort -u); do
	echo "== $package"
	go test -run '^$' -bench . -benchtime "${BENCHTIME:-1s}" "./$package" | grep -E '^(Benchmark|FAIL|panic|    .*_test.go)' || true
done
