package main

import (
	"io"
	"strings"
	"testing"
)

// Where the enclave is: at one place.
func TestEnclaveFlags(t *testing.T) {
	for _, c := range []struct {
		arguments, machine string
		port               uint32
		want               string // the error
	}{
		{"", "", 5000, ""},
		{"--enclave-socket /run/s", "", 5000, ""},
		{"--enclave-cid 16", "vsock:16", 5000, ""},
		{"--enclave-cid 16 --enclave-port 7000", "vsock:16", 7000, ""},
		{"--enclave-vsock-uds /run/v", "vsock-uds:/run/v", 5000, ""},
		{"--enclave-cid 16 --enclave-vsock-uds /run/v", "", 0, "use one of them"},
		{"--enclave-cid 16 --enclave-socket /run/s", "", 0, "use one of them"},
		{"--enclave-cid 4294967295", "", 0, "a context id is below"},
		{"--enclave-port 0", "", 0, "--enclave-port 0"},
		{"--enclave-port 4294967295", "", 0, "--enclave-port 4294967295"},
		{"--enclave-cid 16 --tpm-device /dev/tpmrm0", "", 0, "start that one with --signer tpm"},
		{"--enclave-vsock-uds /run/v --dev", "", 0, "start that one with --dev"},
		{"--enclave-socket /run/s --dev", "", 0, "start that one with --dev"},
	} {
		o, err := parse(strings.Fields(c.arguments), io.Discard)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.arguments, err, c.want)
			}
			continue
		}
		if err != nil || o.EnclaveMachine != c.machine || o.EnclavePort != c.port {
			t.Errorf("%s: %+v, %v", c.arguments, o, err)
		}
	}
}
