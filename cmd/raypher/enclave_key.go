package main

import (
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/raypher/raypher/journal"
	"github.com/spf13/pflag"
)

// trustFlags say whom a verifier trusts.
type trustFlags struct {
	keys          []string
	allowSoftware bool
}

func (f *trustFlags) add(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.keys, "enclave-key", nil, "trust this enclave key: a PEM or DER file, or DER in hexadecimal (may be repeated)")
	flags.BoolVar(&f.allowSoftware, "allow-software", false, "accept the tier software, whose key lies in a file and proves nothing about the host")
}

// parse reads the keys.
func (f *trustFlags) parse() ([]*journal.Key, error) {
	var keys []*journal.Key
	for _, name := range f.keys {
		found, err := readEnclaveKeys(name)
		if err != nil {
			return nil, fmt.Errorf("--enclave-key %s: %w", name, err)
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

const pemType = "PUBLIC KEY"

// readEnclaveKeys reads one DER key, or all keys of a PEM file.
func readEnclaveKeys(name string) ([]*journal.Key, error) {
	if der, err := hex.DecodeString(name); err == nil && len(der) > 0 {
		key, err := journal.ParseKey(der)
		return []*journal.Key{key}, err
	}
	text, err := readBounded(name, 64<<10)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(string(text), "-----BEGIN") {
		key, err := journal.ParseKey(text)
		return []*journal.Key{key}, err
	}
	var keys []*journal.Key
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemType {
			return nil, fmt.Errorf("a PEM block of type %q, expected %q", block.Type, pemType)
		}
		key, err := journal.ParseKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no PEM block of type %q: write one with 'raypher evidence key'", pemType)
	}
	return keys, nil
}

// readBounded reads a file of at most limit bytes; "-" is standard input.
func readBounded(name string, limit int64) ([]byte, error) {
	in := os.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return text, nil
}
