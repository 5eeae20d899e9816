package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/providerkeys"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/recipient"
)

func keysCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "Give the enclave the keys of providers of models, replace them, take them away",
		Long: `Give the enclave the keys of providers of models, replace them, take them away. A key is read from a prompt that does not show it, or from
standard input; it is encrypted here to the enclave, and the change is signed with an operator key. raypherd carries what it cannot read, and no
command shows a key. cost_control.yaml names keys: key of a provider, secret of an alert. Without --key an enclave in development signs the change
itself.

On tier software the keys lie in a file that the enclave alone may read, which is no protection against root. On tier nitro an enclave keeps none:
give them to a controller (raypher fleet secret put) under the same names.`,
		Example: `  raypher keys add openai --key operator.key
  pass show openai | raypher keys rotate openai --key operator.key
  raypher keys list
  raypher keys remove openai --key operator.key`,
	}
	c.AddCommand(
		keysChangeCommand("add", "Give the enclave a key that it does not have", journal.KeyAdded),
		keysListCommand(),
		keysChangeCommand("rotate", "Replace a key: the next call of a model uses the new one", journal.KeyRotated),
		keysChangeCommand("remove", "Take a key away: no call is made with it any more", journal.KeyRemoved),
	)
	return c
}

// keyChange is what the flags of one change say.
type keyChange struct {
	action      journal.ProviderKeyAction
	operatorKey string
	enclaveKeys trustFlags
}

func keysChangeCommand(word, short string, action journal.ProviderKeyAction) *cobra.Command {
	k := keyChange{action: action}
	c := &cobra.Command{
		Use:   word + " NAME",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE:  func(c *cobra.Command, args []string) error { return k.run(c, args[0]) },
	}
	c.Flags().StringVar(&k.operatorKey, "key", "", "operator key, as 'raypher ceiling keygen' made it; without it an enclave in development signs")
	if action != journal.KeyRemoved {
		c.Flags().StringArrayVar(&k.enclaveKeys.keys, "enclave-key", nil, "encrypt to an enclave with this key and to no other: a PEM or DER file, or DER in hexadecimal; without it, to the one that raypherd pinned (may be repeated)")
	}
	return c
}

func (k *keyChange) run(c *cobra.Command, name string) error {
	if err := providerkeys.CheckName(name); err != nil {
		return usageError(err)
	}
	sign, err := k.signing()
	if err != nil {
		return err
	}
	var secret []byte
	if k.action != journal.KeyRemoved {
		if secret, err = (&secretFlags{file: "-"}).value(c.InOrStdin(), c.ErrOrStderr()); errors.Is(err, errNoValue) {
			return usageError(fmt.Errorf("key %s: it is empty: write it at the prompt, or give it on standard input", name))
		} else if err != nil {
			return usageError(fmt.Errorf("key %s: %w", name, err))
		}
		defer clear(secret)
	}
	return withOperator(func(operator parentv1.OperatorClient) error {
		change, err := k.prepare(c.Context(), operator, name, secret)
		if err != nil {
			return err
		}
		signed, err := sign(change)
		if err != nil {
			return err
		}
		keys, err := operator.ChangeProviderKey(c.Context(), &parentv1.OperatorChangeProviderKeyRequest{Change: signed})
		if err != nil {
			return err
		}
		return k.say(c.OutOrStdout(), name, keys)
	})
}

// signing is how the change is made one that the enclave takes.
func (k *keyChange) signing() (func(*providerkeys.Change) ([]byte, error), error) {
	if k.operatorKey == "" {
		return (*providerkeys.Change).Unsigned, nil
	}
	text, err := readBounded(k.operatorKey, 64<<10)
	if err != nil {
		return nil, err
	}
	signer, err := ceiling.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.operatorKey, err)
	}
	return func(c *providerkeys.Change) ([]byte, error) { return c.Sign(signer) }, nil
}

// prepare makes the change, with the secret encrypted to the enclave.
func (k *keyChange) prepare(ctx context.Context, operator parentv1.OperatorClient, name string, secret []byte) (*providerkeys.Change, error) {
	removal := k.action == journal.KeyRemoved
	keys, err := operator.DescribeProviderKeys(ctx, &parentv1.OperatorDescribeProviderKeysRequest{Recipient: !removal})
	if err != nil {
		return nil, err
	}
	change := &providerkeys.Change{Name: name, Version: keys.GetVersion() + 1, Action: k.action}
	if removal {
		change.Epoch, err = journal.ParseEpochID(keys.GetEpoch())
		return change, err
	}
	to, err := k.recipient(keys)
	if err != nil {
		return nil, err
	}
	return change, change.Seal(to, secret)
}

// recipient verifies whom the secret is encrypted to.
func (k *keyChange) recipient(keys *parentv1.OperatorProviderKeys) (*recipient.Recipient, error) {
	trusted, err := k.enclaveKeys.parse()
	if err != nil {
		return nil, err
	}
	if len(trusted) == 0 {
		pinned, err := journal.ParseKey(keys.GetEnclaveKey())
		if err != nil {
			return nil, fmt.Errorf("key of the enclave: %w", err)
		}
		trusted = []*journal.Key{pinned}
	}
	var refused []error
	for _, key := range trusted {
		to, err := recipient.Verify(keys.GetRecipient(), key, time.Now())
		if err == nil {
			return to, nil
		}
		refused = append(refused, err)
	}
	return nil, fmt.Errorf("nothing was sent: the enclave is none that is trusted: %w", errors.Join(refused...))
}

func (k *keyChange) say(out io.Writer, name string, keys *parentv1.OperatorProviderKeys) error {
	i := slices.IndexFunc(keys.GetKeys(), func(k *parentv1.OperatorProviderKey) bool { return k.GetName() == name })
	if i < 0 {
		_, err := fmt.Fprintf(out, "%s: %s. Revoke it where it was issued, too\n", name, k.action)
		return err
	}
	_, err := fmt.Fprintf(out, "%s: %s, fingerprint %x\n", name, k.action, keys.GetKeys()[i].GetFingerprint())
	if err == nil && keys.GetTier() == journal.TierSoftware {
		_, err = fmt.Fprintln(out, "tier software: it lies in a file of the enclave, which is no protection")
	}
	return err
}

// providerKeyJSON is a key as --json prints it.
type providerKeyJSON struct {
	Name        string    `json:"name"`
	Changed     time.Time `json:"changed"`
	Fingerprint string    `json:"fingerprint"`
}

func keysListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "Show which keys the enclave holds, since when, and a fingerprint that tells nothing but whether a key is another one",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(func(operator parentv1.OperatorClient) error {
				keys, err := operator.DescribeProviderKeys(c.Context(), &parentv1.OperatorDescribeProviderKeysRequest{})
				if err != nil {
					return err
				}
				lines := jsonOf(keys.GetKeys(), func(k *parentv1.OperatorProviderKey) providerKeyJSON {
					return providerKeyJSON{k.GetName(), time.Unix(k.GetChangedUnix(), 0).UTC(), fmt.Sprintf("%x", k.GetFingerprint())}
				})
				if asJSON {
					return printJSON(c.OutOrStdout(), lines)
				}
				return printProviderKeys(c.OutOrStdout(), lines)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printProviderKeys(out io.Writer, lines []providerKeyJSON) error {
	if len(lines) == 0 {
		_, err := fmt.Fprintln(out, "no keys: raypher keys add gives the enclave one (secrets of a controller or of KMS are shown by raypher fleet status)")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tCHANGED\tFINGERPRINT")
	for _, k := range lines {
		fmt.Fprintf(table, "%s\t%s\t%s\n", k.Name, k.Changed.Format(time.RFC3339), k.Fingerprint)
	}
	return table.Flush()
}
