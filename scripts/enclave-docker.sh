#!/bin/sh
# Compares the program that Docker builds from Dockerfile.enclave with the one of `make enclave`, byte for byte. Where there is no
# Docker engine it says so and succeeds.
set -eu
cd "$(dirname "$0")/.."

if ! docker version >/dev/null 2>&1; then
	echo "enclave-docker: SKIPPED: no Docker engine answers here, so Dockerfile.enclave was not built and nothing was compared" >&2
	exit 0
fi
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
folder=$(mktemp -d)
tag=raypher-enclave-compare-$$
container=
trap 'rm -rf "$folder"; [ -z "$container" ] || docker rm "$container" >/dev/null; docker rmi "$tag" >/dev/null 2>&1 || true' EXIT

make --no-print-directory enclave VERSION="$version" ENCLAVE_OUT="$folder/make"
docker build -q -f Dockerfile.enclave --build-arg VERSION="$version" -t "$tag" . >/dev/null
container=$(docker create "$tag")
docker cp -q "$container:/raypher-enclave" "$folder/docker"
if ! cmp "$folder/make" "$folder/docker"; then
	echo "enclave-docker: Docker and make enclave built different programs" >&2
	exit 1
fi
# The image holds that program and what Docker puts into every container (its own mount points).
others=$(docker export "$container" | tar -t | grep -vE '^(raypher-enclave|\.dockerenv|dev/.*|proc/|sys/|etc/(hosts|hostname|resolv\.conf|mtab)?)$' || true)
if [ -n "$others" ]; then
	echo "enclave-docker: the image holds more than the program: $others" >&2
	exit 1
fi
echo "enclave-docker: Docker and make enclave built the same $(wc -c <"$folder/make") bytes: $(sha384sum <"$folder/make" | cut -c1-32)..."
