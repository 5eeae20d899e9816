#!/bin/sh
# The race detector on the packages whose goroutines share state. It costs several times the plain run, so the packages whose
# tests are single-threaded are left out.
set -eu
cd "$(dirname "$0")/.."
for package in controller/lease controller/server controller/store enclave enclave/conduit enclave/fleet enclave/gateway enclave/journal enclave/lease enclave/ledger enclave/mint enclave/runs enclave/spending parent/agents parent/agents/task parent/approvals parent/attend parent/audit parent/egress parent/fleet parent/link parent/server parent/spend parent/dns parent/events parent/guard/ring parent/namespaces parent/relay parent/warden; do
	[ -d "$package" ] && set -- "$@" "./$package"
done
export CGO_ENABLED=1 # the race detector is C
exec go test -race -short -count=1 -timeout 6m "$@"
