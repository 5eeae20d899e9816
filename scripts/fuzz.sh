#!/bin/sh
# Runs each fuzz target of the module for FUZZTIME (5s): what they find is saved below testdata/fuzz and fails. Without a bound on
# minimizing, inputs of some kilobytes take all of that time for one of them.
set -eu
time=${FUZZTIME:-5s}
echo "fuzz bpf/netguard/tls.h"
seconds=${time%s}
case $seconds in *[!0-9]*) seconds=5 ;; esac # other units of Go's are not libFuzzer's
FUZZSECONDS=$seconds go test -count=1 -timeout 0 -v -run '^TestTLSReader$' ./bpf
go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./... | while read -r package dir; do
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go 2>/dev/null | sed 's/^func //' || true); do
		echo "fuzz $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$package" </dev/null
	done
done
