package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/policy"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func ceilingCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ceiling",
		Short: "Write, sign and install what this host may grant at most",
		Long: `A ceiling is the most that an enclave may grant: which user and program may run which agents with which permit.
It is written in YAML, signed with an operator key, and obeyed when the enclave's start configuration names
that key. Versions only go upwards.`,
		Example: `  raypher ceiling keygen operator.key     # put the line that it prints into the enclave's ibev.conf, and restart it
  raypher ceiling sign --key operator.key ceiling.yaml
  raypher ceiling install ceiling.ceiling`,
	}
	c.AddCommand(ceilingKeygenCommand(), ceilingSignCommand(), ceilingShowCommand(), ceilingVerifyCommand(), ceilingInstallCommand())
	return c
}

func ceilingKeygenCommand() *cobra.Command {
	var p256 bool
	c := &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make an operator key: FILE and FILE.pub",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := newOperatorKey(p256)
			if err != nil {
				return err
			}
			private, err := ceiling.EncodeKey(key)
			if err != nil {
				return err
			}
			der, err := ceiling.PublicKey(key)
			if err != nil {
				return err
			}
			if err := writeNew(args[0], private, 0o600); err != nil {
				return err
			}
			public := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
			if err := writeNew(args[0]+".pub", public, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "# for a key that signs ceilings and grants: put this line into the enclave's ibev.conf and restart it\noperator_key = %s\n", base64.StdEncoding.EncodeToString(der))
			return err
		},
	}
	c.Flags().BoolVar(&p256, "p256", false, "ECDSA on P-256 instead of Ed25519")
	return c
}

func newOperatorKey(p256 bool) (crypto.Signer, error) {
	if p256 {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// writeNew writes a file that does not exist yet: a key is never overwritten.
func writeNew(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: choose another name: a key is never overwritten", err)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

func ceilingSignCommand() *cobra.Command {
	var keyFile, out string
	c := &cobra.Command{
		Use:   "sign SOURCE.yaml",
		Short: "Check a ceiling and sign it with an operator key",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := readBounded(args[0], ceiling.MaxSource)
			if err != nil {
				return err
			}
			parsed, err := ceiling.ParseSource(args[0], text)
			var problems policy.Errors
			if errors.As(err, &problems) {
				printProblems(c.ErrOrStderr(), problems)
				return &exitError{code: 1}
			}
			if err != nil {
				return err
			}
			keyText, err := readBounded(keyFile, 64<<10)
			if err != nil {
				return err
			}
			key, err := ceiling.ParseKey(keyText)
			if err != nil {
				return fmt.Errorf("%s: %w", keyFile, err)
			}
			bundle, err := ceiling.Sign(parsed, key)
			if err != nil {
				return err
			}
			if out == "" {
				out = strings.TrimSuffix(args[0], ".yaml") + ".ceiling"
			}
			if err := os.WriteFile(out, bundle, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: version %d, %d grants, sha256:%x\n", out, parsed.Version, len(parsed.Grants), sha256.Sum256(bundle))
			return err
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "operator key, as keygen made it")
	c.Flags().StringVarP(&out, "out", "o", "", "bundle to write; SOURCE.ceiling by default")
	c.MarkFlagRequired("key")
	return c
}

func ceilingShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show BUNDLE",
		Short: "Print what is in a bundle, without verifying it",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			bundle, err := readBounded(args[0], ceiling.MaxBundle)
			if err != nil {
				return err
			}
			parsed, key, err := ceiling.Read(bundle)
			if err != nil {
				return err
			}
			return printCeiling(c.OutOrStdout(), parsed, fmt.Sprintf("names key sha256:%x; the signature was not verified", key))
		},
	}
}

func printCeiling(out io.Writer, c *ceiling.Ceiling, said string) error {
	text, err := c.Source()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "# bundle sha256:%x\n# %s\n%s", c.Hash[:], said, text)
	return err
}

func ceilingVerifyCommand() *cobra.Command {
	var keys []string
	c := &cobra.Command{
		Use:   "verify BUNDLE",
		Short: "Verify a bundle against operator keys and print it",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			bundle, err := readBounded(args[0], ceiling.MaxBundle)
			if err != nil {
				return err
			}
			var trusted [][]byte
			for _, name := range keys {
				der, err := readOperatorKey(name)
				if err != nil {
					return fmt.Errorf("--operator-key %s: %w", name, err)
				}
				trusted = append(trusted, der)
			}
			parsed, err := ceiling.Open(bundle, trusted)
			if err != nil {
				return err
			}
			return printCeiling(c.OutOrStdout(), parsed, "signed by a trusted operator key")
		},
	}
	c.Flags().StringArrayVar(&keys, "operator-key", nil, "trusted operator key: the .pub file of keygen, or the base64 of its operator_key line (may be repeated)")
	c.MarkFlagRequired("operator-key")
	return c
}

// readOperatorKey returns the PKIX DER of a public key.
func readOperatorKey(name string) ([]byte, error) {
	if der, err := base64.StdEncoding.DecodeString(name); err == nil {
		if _, err := x509.ParsePKIXPublicKey(der); err == nil {
			return der, nil
		}
	}
	text, err := readBounded(name, 64<<10)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("no PEM block %q: name the .pub file that raypher ceiling keygen makes", pemType)
	}
	return block.Bytes, nil
}

func ceilingInstallCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install BUNDLE",
		Short: "Hand a bundle to the enclave of this host, which obeys it from then on",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			bundle, err := readBounded(args[0], ceiling.MaxBundle)
			if err != nil {
				return err
			}
			if _, _, err := ceiling.Read(bundle); err != nil {
				return err
			}
			return withOperator(func(operator parentv1.OperatorClient) error {
				status, err := operator.InstallCeiling(c.Context(), &parentv1.OperatorInstallCeilingRequest{Bundle: bundle})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "ceiling version %d is in force\n", status.GetCeilingVersion())
				return err
			})
		},
	}
}
