#!/bin/sh
# The race detector on the packages whose goroutines share state. It costs several times the plain run, so the packages whose
# tests are single-threaded are left out.
set -eu
cd "$(dirname "$0")/.."
for package in journal parent/audit parent/agents parent/link parent/dns enclave parent/events; do
	[ -d "$package" ] && set -- "$@" "./$package/..."
done
exec go test -race -short -count=1 -timeout 6m "$@"
