#!/bin/sh
# The demonstration with an enclave of tier nitro, in the laboratory: demo-nitro.sh PROGRAMS [FLAGS]. Where the laboratory's parts cannot
# be had it says so, and ends with status 3.
set -eu
cd "$(dirname "$0")/.."

programs=$1
shift
if ! parts=$(scripts/nitro-parts.sh); then
	echo "SKIPPED demo-nitro: the laboratory's parts cannot be had here: see above" >&2
	exit 3
fi
folder=$(mktemp -d /tmp/raypher-lab-XXXXXX)
lab=
finish() {
	[ -z "$lab" ] || kill "$lab" 2>/dev/null || true
	[ -z "$lab" ] || wait "$lab" 2>/dev/null || true
	rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' INT TERM
BIN="$programs" RAYPHER_NITRO_LAB="$parts" scripts/nitro-lab "$folder" >"$folder.log" 2>&1 &
lab=$!
until [ -s "$folder/test-root.pem" ]; do
	if ! kill -0 "$lab" 2>/dev/null; then
		cat "$folder.log" >&2
		rm -f "$folder.log"
		exit 1
	fi
	sleep 0.2
done
"$programs/raypher" eif measure "$folder/enclave.eif" --json >"$folder/measurements.json"
cat <<WORDS
THIS IS A LABORATORY: the enclave runs in QEMU, whose root reads its memory, and its documents end at a TEST ROOT. raypherd is told to
believe that root, and checks the image against what raypher eif measure prints:
WORDS
cat "$folder/measurements.json"
status=0
"$programs/demo" -programs "$programs" -nitro "$folder" "$@" || status=$?
if [ "$status" != 0 ]; then
	echo "the laboratory said:" >&2
	tail -n 40 "$folder.log" >&2
fi
rm -f "$folder.log"
exit "$status"
