#!/bin/sh
# The tests of tier nitro in virtual machines, alone: the signer over /dev/nsm, and a whole enclave from its image to a verified
# document. `make test` runs them too.
set -eu
cd "$(dirname "$0")/.."

if [ -z "${RAYPHER_NITRO_LAB:-}" ]; then
	RAYPHER_NITRO_LAB=$(scripts/nitro-parts.sh)
	export RAYPHER_NITRO_LAB
fi
go test -count=1 -run '^TestGuest$' -v ./enclave/signer/nitro
go test -count=1 -v ./test/nitro
