#!/bin/sh
# Runs an enclave image with nitro-cli on this EC2 instance. With --wait it stays, ends the enclave when it is told to end, and fails when
# the enclave ends by itself, as a service wants it (deploy/nitro/raypher-enclave.service).
#
# It needs: an instance with enclaves enabled, aws-nitro-enclaves-cli, membership of the group ne (root for --allocate), and raypher.
set -eu

usage() {
	cat <<'EOF'
usage: nitro-run [options] IMAGE.eif
  --cid N              vsock context id of the enclave, 4 or more (16); raypherd --enclave-cid has the same
  --cpus N             vCPUs, whole cores (2)
  --memory MIB         memory in MiB (1024)
  --measurements FILE  what `raypher eif measure --json` said of the image when it was built; another image is not run
  --allocate           first set these CPUs and this memory aside (/etc/nitro_enclaves/allocator.yaml) and restart the allocator; ends no enclave
  --replace            end an enclave that runs with this context id
  --wait               stay until the enclave ends
  --insecure-debug     debug mode: this host reads the console, attestation shows PCRs of zero, and no relying party should take it
EOF
}

fail() {
	echo "nitro-run: $*" >&2
	exit 1
}

number() { # WHAT VALUE LOW HIGH
	case $2 in '' | *[!0-9]* | ??????????*) fail "$1 $2: use a number from $3 to $4" ;; esac
	if [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then fail "$1 $2: use a number from $3 to $4"; fi
}

cid=16 cpus=2 memory=1024 measurements='' allocate='' replace='' stay='' debug=''
while [ $# -gt 0 ]; do
	case $1 in
	--cid) cid=${2:-} && shift ;;
	--cpus) cpus=${2:-} && shift ;;
	--memory) memory=${2:-} && shift ;;
	--measurements) measurements=${2:-} && shift ;;
	--allocate) allocate=yes ;;
	--replace) replace=yes ;;
	--wait) stay=yes ;;
	--insecure-debug) debug=--debug-mode ;;
	--debug-mode) fail "--debug-mode: an enclave in debug mode hides nothing from this host: say --insecure-debug if that is what you want" ;;
	-h | --help) usage && exit 0 ;;
	-*) fail "$1: unknown: see --help" ;;
	*) break ;;
	esac
	[ $# -gt 0 ] || fail "the last option has no value: see --help"
	shift
done
[ $# = 1 ] || fail "expected one image: see --help"
image=$1
number --cid "$cid" 4 999999999
number --cpus "$cpus" 1 1024
number --memory "$memory" 64 1048576
# The tests of this script stand on other ground than EC2: NITRO_ALLOCATOR, NITRO_DEVICE, NITRO_INTERVAL.
raypher=${RAYPHER:-raypher}
config=${NITRO_ALLOCATOR:-/etc/nitro_enclaves/allocator.yaml}

[ -r "$image" ] || fail "$image: no such image: make one with \`raypher eif build\`"
command -v nitro-cli >/dev/null || fail "nitro-cli is missing: dnf install aws-nitro-enclaves-cli"
[ -e "${NITRO_DEVICE:-/dev/nitro_enclaves}" ] || fail "/dev/nitro_enclaves is missing: enable enclaves for this instance (enclave_options), and load the module nitro_enclaves"

# What runs is measured here, by the program that relying parties measure with, and not by what starts it.
measured=$("$raypher" eif measure "$image" --json) || fail "$image is no image that can be trusted"
if [ -n "$measurements" ]; then
	[ "$measured" = "$(cat "$measurements")" ] || fail "$image is not the image of $measurements: it measures $measured"
fi
echo "$measured"

if [ -n "$allocate" ]; then
	wanted=$(printf -- '---\nmemory_mib: %s\ncpu_count: %s\n' "$memory" "$cpus")
	if [ "$wanted" != "$(cat "$config" 2>/dev/null)" ]; then
		printf '%s\n' "$wanted" >"$config.new" && mv "$config.new" "$config"
		systemctl restart nitro-enclaves-allocator.service || fail "the allocator refuses $memory MiB and $cpus vCPUs: see journalctl -u nitro-enclaves-allocator; end the enclaves that run"
	fi
fi

# enclave_with KEY VALUE WANTED: prints the value of WANTED of the enclave whose KEY is VALUE, from a list with one entry a line.
enclave_with() {
	nitro-cli describe-enclaves | awk -v key="\"$1\":" -v value="$2" -v wanted="\"$3\":" '
		function text(s) { sub(/^[^:]*:[ ]*/, "", s); gsub(/[",]/, "", s); return s }
		/^  \{/ { found = 0; said = "" }
		index($0, key) == 5 && text($0) == value { found = 1 }
		index($0, wanted) == 5 { said = text($0) }
		/^  \}/ && found { print said; exit }'
}

before=$(enclave_with EnclaveCID "$cid" EnclaveID)
if [ -n "$before" ]; then
	[ -n "$replace" ] || fail "enclave $before runs with context id $cid: end it, or use --replace"
	nitro-cli terminate-enclave --enclave-id "$before" >/dev/null || fail "enclave $before cannot be ended"
fi

started=$(nitro-cli run-enclave --enclave-name raypher --eif-path "$image" --cpu-count "$cpus" --memory "$memory" --enclave-cid "$cid" $debug) ||
	fail "nitro-cli does not run it: see /var/log/nitro_enclaves, and whether the allocator has $memory MiB and $cpus vCPUs (--allocate)"
id=$(printf '%s\n' "$started" | sed -n 's/^ *"EnclaveID": "\(i-[0-9a-z-]*\)",*$/\1/p')
[ -n "$id" ] || fail "nitro-cli says of no enclave that it runs: $started"

finish() {
	nitro-cli terminate-enclave --enclave-id "$id" >/dev/null || true
}
flags=$(enclave_with EnclaveID "$id" Flags)
if [ -z "$debug" ] && [ "$flags" != NONE ]; then
	finish
	fail "enclave $id runs with flags '$flags' and not NONE: it was ended"
fi
echo "enclave $id runs with context id $cid${debug:+ IN DEBUG MODE: it hides nothing from this host}"
[ -n "$stay" ] || exit 0

trap 'finish; exit 0' TERM INT
while [ "$(enclave_with EnclaveID "$id" State)" = RUNNING ]; do
	sleep "${NITRO_INTERVAL:-5}" &
	wait $! || true
done
fail "enclave $id has ended: its console says why (--insecure-debug, nitro-cli console)"
