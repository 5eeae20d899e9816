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
for package in visa journal enclave parent/link parent/audit policy parent/guard/broker parent/guard/net parent/dns; do
	[ -d "$package" ] || continue
	if grep -qs '^func Benchmark' "$package"/*_test.go; then
		go test -run '^$' -bench . -benchtime "${BENCHTIME:-1s}" "./$package" | grep -E '^(Benchmark|FAIL|panic)' || true
	fi
done
