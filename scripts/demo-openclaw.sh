#!/bin/sh
# Runs the OpenClaw demonstration: demo-openclaw.sh PROGRAM [FLAGS]. Says why when it has to skip.
set -eu
here=$(dirname "$0")
status=0
folder=$("$here/openclaw.sh") || status=$?
case $status in
0) ;;
3)
	echo "SKIPPED demo-openclaw: npm cannot be reached, so there is no OpenClaw to run"
	exit 0
	;;
*) exit $status ;;
esac
program=$1
shift
exec "$program" -openclaw "$folder" "$@"
