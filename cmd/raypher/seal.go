package main

import (
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/seal"
)

func sealCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "seal",
		Short: "Approve the states of a machine in which its TPM opens a secret",
		Long: `A secret is sealed in the TPM of a machine by "raypher-enclave tpm seal", and opens there while its PCRs have values
that a policy approves. Policies are signed here, offline, with a policy key ("raypher ceiling keygen --p256"). Before an
upgrade sign one for the values after it; the secret is not entered again:

  machine  $ raypher-enclave tpm pcrs > PCRS
  operator $ raypher seal policy PCRS --key KEY --name NAME --version 1 -o POLICY
  machine  $ raypher-enclave tpm seal --policy-key KEY.pub --policy POLICY < SECRET > SEALED
  machine  $ raypher-enclave tpm unseal --policy POLICY < SEALED`,
	}
	c.AddCommand(sealPolicyCommand(), sealShowCommand())
	return c
}

func sealPolicyCommand() *cobra.Command {
	var p seal.Policy
	var keyFile, out string
	c := &cobra.Command{
		Use:   "policy PCRS",
		Short: "Sign a policy that approves the values in a file of lines `7 = HEX`, SHA-256 bank",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := readBounded(args[0], maxPKIFile)
			if err != nil {
				return err
			}
			if p.PCRs, err = parsePCRs(string(text)); err != nil {
				return fmt.Errorf("%s:%w", args[0], err)
			}
			keyText, err := readBounded(keyFile, maxPKIFile)
			if err != nil {
				return err
			}
			key, err := ceiling.ParseKey(keyText)
			if err != nil {
				return fmt.Errorf("%s: %w", keyFile, err)
			}
			private, ok := key.(*ecdsa.PrivateKey)
			if !ok {
				return fmt.Errorf("%s: TPMs know no such key: make one with `raypher ceiling keygen --p256`", keyFile)
			}
			signed, err := seal.Sign(&p, private)
			if err != nil {
				return err
			}
			if err := os.WriteFile(out, signed, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: secret %s, version %d, %d PCRs\n", out, p.Name, p.Version, len(p.PCRs))
			return err
		},
	}
	c.Flags().StringVar(&p.Name, "name", "", "name of the secret")
	c.Flags().Uint64Var(&p.Version, "version", 0, "from 1; a secret that was sealed under a version opens with that or a later one")
	c.Flags().StringVar(&keyFile, "key", "", "policy key, P-256")
	c.Flags().StringVarP(&out, "out", "o", "", "file to write")
	for _, name := range []string{"name", "version", "key", "out"} {
		c.MarkFlagRequired(name)
	}
	return c
}

// parsePCRs reads lines `7 = HEX`; # begins a comment. The error begins with the line's number.
func parsePCRs(text string) ([]attest.PCR, error) {
	var pcrs []attest.PCR
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		index, err := strconv.ParseUint(strings.TrimSpace(name), 10, 8)
		raw, err2 := hex.DecodeString(strings.TrimSpace(value))
		switch {
		case !found || err != nil || err2 != nil:
			return nil, fmt.Errorf("%d: expected `7 = HEX`", i+1)
		case len(raw) != attest.PCRSize:
			return nil, fmt.Errorf("%d: %d bytes: the SHA-256 bank has %d; other banks are not approved", i+1, len(raw), attest.PCRSize)
		case slices.ContainsFunc(pcrs, func(p attest.PCR) bool { return p.Index == index }):
			return nil, fmt.Errorf("%d: PCR %d stands twice: sign a policy for each state", i+1, index)
		}
		pcrs = append(pcrs, attest.PCR{Index: index, Value: [attest.PCRSize]byte(raw)})
	}
	if len(pcrs) == 0 {
		return nil, errors.New("1: no PCRs: take the output of `raypher-enclave tpm pcrs`")
	}
	slices.SortFunc(pcrs, func(a, b attest.PCR) int { return int(a.Index) - int(b.Index) })
	return pcrs, nil
}

func sealShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show POLICY",
		Short: "Print what is in a policy, without verifying it",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			signed, err := readBounded(args[0], seal.MaxPolicy)
			if err != nil {
				return err
			}
			p, err := seal.Read(signed)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "# secret %s, policy version %d; the signature was not verified\n", p.Name, p.Version)
			for _, r := range p.PCRs {
				fmt.Fprintf(c.OutOrStdout(), "%d = %x\n", r.Index, r.Value)
			}
			return nil
		},
	}
}
