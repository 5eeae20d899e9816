// Package bpf holds the kernel side of the guard: C sources, their compiled objects, and the Go types generated from them.
// Packages netguard and lsm below parent/guard load them. The objects are committed, so that building needs no clang; `bpf/check.sh` proves that
// they are what the sources compile to.
package bpf

//go:generate ./build.sh .
