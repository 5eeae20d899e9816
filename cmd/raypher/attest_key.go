package main

import (
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// attestKeyCommand is `raypher attest key`.
func attestKeyCommand() *cobra.Command {
	var namespace, nonce, out string
	var authority bool
	c := &cobra.Command{
		Use:   "key --namespace NAME | --tls-authority",
		Short: "Print a further key of this host's enclave, for relying parties to trust, with evidence of it",
		Long: `Print a further key of the enclave of this host: that of a namespace to which the ceiling gives one (own_key: true), as a PEM public
key for --enclave-key; or that of the authority that certifies the TLS keys of agents, as a PEM certificate for a list of roots. Carry
it over a way that you trust, or have the evidence verified there: with --nonce, chosen by the verifier, and --out, it is written to a
file. On tier tpm 'raypher attest verify --tpm' proves from it that the key lies in the TPM.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			request, err := describeRequest(namespace, authority, nonce, out)
			if err != nil {
				return fmt.Errorf("attest key: %w", err)
			}
			return withOperator(func(operator parentv1.OperatorClient) error {
				d, err := operator.DescribeKey(c.Context(), request)
				if err != nil {
					return err
				}
				if out != "" {
					if err := writeNew(out, d.GetDocument(), 0o644); err != nil {
						return err
					}
					fmt.Fprintf(c.ErrOrStderr(), "evidence of tier %s in %s\n", evidence.Printable(d.GetTier()), evidence.Printable(out))
				}
				if authority {
					return pem.Encode(c.OutOrStdout(), &pem.Block{Type: "CERTIFICATE", Bytes: d.GetCertificate()})
				}
				return pem.Encode(c.OutOrStdout(), &pem.Block{Type: pemType, Bytes: d.GetPublicKey()})
			})
		},
	}
	c.Flags().StringVar(&namespace, "namespace", "", "the key of this namespace")
	c.Flags().BoolVar(&authority, "tls-authority", false, "the authority of agents' TLS keys")
	c.Flags().StringVar(&nonce, "nonce", "", "the verifier's nonce, in hexadecimal, for --out")
	c.Flags().StringVar(&out, "out", "", "write the evidence of the key to this new file")
	return c
}

func describeRequest(namespace string, authority bool, nonce, out string) (*parentv1.OperatorDescribeKeyRequest, error) {
	if (namespace == "") != authority {
		return nil, errors.New("name one of --namespace NAME and --tls-authority")
	}
	if (nonce == "") != (out == "") {
		return nil, errors.New("--nonce and --out belong together")
	}
	value, err := hex.DecodeString(nonce)
	if err != nil || len(value) > tpm.MaxNonceSize || nonce != "" && len(value) < tpm.MinNonceSize {
		return nil, fmt.Errorf("--nonce: %d to %d bytes in hexadecimal", tpm.MinNonceSize, tpm.MaxNonceSize)
	}
	if nonce == "" {
		value = make([]byte, tpm.MinNonceSize) // the evidence is not kept
	}
	r := &parentv1.OperatorDescribeKeyRequest{Purpose: string(journal.PurposeNamespace), Name: namespace, Nonce: value}
	if authority {
		r.Purpose = string(journal.PurposeTLSAuthority)
	}
	return r, nil
}
