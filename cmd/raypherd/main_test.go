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
		{"--enclave-cid 16 --tpm-device /dev/tpm0", "vsock:16", 5000, ""},
		{"--enclave-socket /run/s --tpm-device /dev/tpmrm0", "", 0, "start that one with --signer tpm"},
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

// What is wanted of the enclave agrees with where it is.
func TestEnclaveMode(t *testing.T) {
	for _, c := range []struct {
		arguments, tier, tpm string
		want                 string // the error
	}{
		{"", "", "", ""},
		{"--enclave-cid 16 --nitro-enclave", "nitro", "", ""},
		{"--enclave-cid 16 --enclave-mode nitro --nitro-enclave", "nitro", "", ""},
		{"--enclave-vsock-uds /run/v --enclave-mode nitro --enclave-measurements m --nitro-root r", "nitro", "", ""},
		{"--enclave-cid 16 --enclave-measurements m --enclave-measurements-key k", "", "", ""},
		{"--enclave-cid 16 --enclave-mode software", "software", "", ""},
		{"--enclave-mode tpm", "tpm", "/dev/tpmrm0", ""},
		{"--enclave-mode tpm --tpm-device /run/t", "tpm", "/run/t", ""},
		{"--enclave-mode tpm --enclave-socket /run/s", "tpm", "", ""},
		{"--enclave-mode software", "software", "", ""},
		{"--nitro-enclave", "", "", "name the enclave with --enclave-cid"},
		{"--enclave-mode nitro --enclave-socket /run/s", "", "", "name the enclave with --enclave-cid"},
		{"--enclave-mode tpm --enclave-cid 16", "", "", "has no TPM"},
		{"--enclave-mode software --tpm-device /dev/tpmrm0", "", "", "contradicts --tpm-device"},
		{"--enclave-mode tpm --nitro-enclave --enclave-cid 16", "", "", "use one of them"},
		{"--enclave-mode sgx", "", "", "use nitro, tpm or software"},
		{"--enclave-measurements m", "", "", "is for enclaves of tier nitro"},
		{"--nitro-root r --enclave-socket /run/s", "", "", "is for enclaves of tier nitro"},
		{"--nitro-root r --enclave-cid 16 --enclave-mode software", "", "", "is for enclaves of tier nitro"},
		{"--enclave-cid 16 --enclave-measurements-key k", "", "", "needs --enclave-measurements"},
	} {
		o, err := parse(strings.Fields(c.arguments), io.Discard)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.arguments, err, c.want)
			}
			continue
		}
		if err != nil || o.EnclaveTier != c.tier || o.TPMDevice != c.tpm {
			t.Errorf("%s: %+v, %v", c.arguments, o, err)
		}
	}
}
