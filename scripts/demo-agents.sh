#!/bin/sh
# Runs real agents from npm under the guard: demo-agents.sh PROGRAM [FLAGS] [NAME...], by default all of them. Says why when it has to
# skip.
set -eu
here=$(dirname "$0")
program=$1
shift
flags=
while [ $# -gt 0 ]; do
	case $1 in
	-*) flags="$flags $1" ;;
	*) break ;;
	esac
	shift
done
status=0
folder=$("$here/agents.sh" "$@") || status=$?
case $status in
0) ;;
3)
	echo "SKIPPED demo-agents: npm cannot be reached, so there are no agents to run"
	exit 0
	;;
*) exit $status ;;
esac
# shellcheck disable=SC2086 # the flags are words
exec "$program" -installed "$folder" $flags "$@"
