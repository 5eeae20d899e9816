#!/bin/sh
# Every check and test, in the order in which a failure is cheapest: `make test` and .ci/run. The steps are printed with
# their times. go test's own closing lines are kept.
set -eu
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
	echo "test: not root: what needs namespaces, cgroups or BPF will be skipped, in words" >&2
fi
# As the Makefile builds: what one step compiles, the others find.
export CGO_ENABLED=0
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-trimpath"

began=$(date +%s)
step() { printf '\n=== %s (at %ss)\n' "$1" "$(($(date +%s) - began))"; }

step "dependencies"
scripts/deps.sh

# npm takes its time, so the agents come while the rest is built. What this attempt does not get, their demonstration asks for
# again, and says why it could not.
scripts/agents.sh >/dev/null 2>&1 &
agents=$!

step "build, for this machine and for arm64"
make --no-print-directory build arm64

step "go vet, gofmt, staticcheck"
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	echo "gofmt: $unformatted" >&2
	exit 1
fi
go vet ./...
go tool staticcheck ./...

step "BPF objects against their source"
scripts/check-bpf.sh

step "tests"
# With a kernel, the tests of the TPM run over /dev/tpmrm0 in a virtual machine too.
if kernel=$(scripts/guest-kernel.sh); then
	export RAYPHER_TEST_KERNEL="$kernel"
else
	echo "test: no virtual machine with a TPM: TestGuest will be skipped" >&2
fi
go test -count=1 -timeout 15m ./...

step "files held by programs of BPF LSM, in virtual machines"
# This machine's kernel need not take such programs. Each machine needs a processor for itself, so they come after the other tests.
if held=$(scripts/guest-kernel.sh) && newer=$(scripts/guest-kernel.sh bookworm-backports); then
	RAYPHER_TEST_LSM_KERNELS="$held:$newer" go test -count=1 -timeout 20m -run '^Test(FilesHeldInGuests|FileGuard|UncalledPrograms)$' ./test/vm
	# The whole table under the newer kernel, and the bypass programs under the oldest; test-vm plays both under both.
	RAYPHER_TEST_LSM_KERNELS="$newer" go test -count=1 -timeout 20m -run '^TestTableInGuests$' ./test/vm
	RAYPHER_TEST_LSM_KERNELS="$held" go test -count=1 -timeout 20m -run '^TestBypassInGuests$' ./test/vm
else
	echo "test: no kernels for virtual machines: the backend lsm is not tested"
fi

step "tier nitro in virtual machines"
# Each needs a processor for itself, so they come after the other tests and not among them.
if parts=$(scripts/nitro-parts.sh); then
	RAYPHER_NITRO_LAB="$parts" scripts/nitro-guest.sh
else
	echo "test: no parts for the laboratory: the tests of tier nitro over /dev/nsm are skipped" >&2
fi

step "race detector, where goroutines share state"
scripts/race.sh

step "the enclave's program, built by Docker"
scripts/enclave-docker.sh

step "demonstration"
make --no-print-directory demo

step "demonstration with an enclave of tier nitro"
scripts/demo-nitro.sh bin || [ $? = 3 ] # 3: it cannot be had here, which was said

step "real agents under the guard"
wait "$agents" || true
# About three minutes on an idle machine with two processors, more than half of them OpenClaw's.
timeout 900 make --no-print-directory demo-agents

step "done"
