package main

import (
	"context"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/raypher/raypher/enclave/seal"
	"github.com/raypher/raypher/enclave/signer/tpm"
)

// maxKeyFile bounds the file of a policy key, in bytes.
const maxKeyFile = 64 << 10

// sealFlags are those of seal, unseal and reseal.
type sealFlags struct {
	policyKey string
	policies  []string
}

func (f *sealFlags) add(flags *flag.FlagSet) {
	flags.StringVar(&f.policyKey, "policy-key", "", "public key that seal believes policies of: the .pub file of 'raypher ceiling keygen --p256'")
	flags.Func("policy", "signed policy, of 'raypher seal policy'; unseal and reseal take several and use the first that approves the machine's state", func(name string) error {
		f.policies = append(f.policies, name)
		return nil
	})
}

// printPCRs writes the registers that tpm.conf names, as policies are made of them.
func printPCRs(ctx context.Context, device *tpm.Device, c tpm.Configuration, out io.Writer) error {
	k := tpm.WithoutKey(device, c)
	defer k.Close()
	numbers := c.PCRs
	if len(numbers) == 0 {
		numbers = tpm.DefaultPCRs
	}
	pcrs, err := k.PCRs(ctx, numbers)
	if err != nil {
		return err
	}
	for _, p := range pcrs {
		if _, err := fmt.Fprintf(out, "%d = %x\n", p.Index, p.Value); err != nil {
			return err
		}
	}
	return nil
}

// seal reads a secret and writes it sealed, for the policy that is named and later ones.
func (f *sealFlags) seal(ctx context.Context, device *tpm.Device, c tpm.Configuration, in io.Reader, out io.Writer) error {
	if f.policyKey == "" || len(f.policies) != 1 {
		return errors.New("seal: name one --policy and the --policy-key that signed it")
	}
	text, err := readFile(f.policyKey, maxKeyFile)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("%s: no PEM block: name the .pub file of the policy key", f.policyKey)
	}
	signed, err := readFile(f.policies[0], seal.MaxPolicy)
	if err != nil {
		return err
	}
	policy, err := seal.Open(signed, block.Bytes)
	if err != nil {
		return err
	}
	secret, err := io.ReadAll(io.LimitReader(in, seal.MaxSecret+1))
	if err != nil {
		return err
	}
	k := tpm.WithoutKey(device, c)
	defer k.Close()
	sealed, err := k.Seal(ctx, secret, block.Bytes, policy.Name, policy.Version)
	if err != nil {
		return err
	}
	_, err = out.Write(sealed.Encode())
	return err
}

// unseal reads a sealed secret and writes it as it was, or sealed anew so that only the policy that opened it, and later ones, do.
func (f *sealFlags) unseal(ctx context.Context, device *tpm.Device, c tpm.Configuration, in io.Reader, out io.Writer, again bool) error {
	file, err := io.ReadAll(io.LimitReader(in, seal.MaxSealed+1))
	if err != nil {
		return err
	}
	sealed, err := seal.Decode(file)
	if err != nil {
		return err
	}
	var signed [][]byte
	for _, name := range f.policies {
		policy, err := readFile(name, seal.MaxPolicy)
		if err != nil {
			return err
		}
		signed = append(signed, policy)
	}
	k := tpm.WithoutKey(device, c)
	defer k.Close()
	written, policy, err := k.Unseal(ctx, sealed, signed)
	if err != nil {
		return err
	}
	if again {
		renewed, err := k.Seal(ctx, written, sealed.PolicyKey, sealed.Name, policy.Version)
		if err != nil {
			return err
		}
		written = renewed.Encode()
	}
	_, err = out.Write(written)
	return err
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return text, err
}
