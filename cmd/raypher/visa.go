package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/raypher/raypher/client"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/visa"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func visaCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "visa",
		Short: "Show, verify and request visas",
		Long:  `A visa says what an agent may do, until when, and who granted it. FILE defaults to $` + instance.VisaVariable + `, the caller's own; - is standard input.`,
	}
	c.AddCommand(visaShowCommand(), visaVerifyCommand(), visaRequestCommand())
	return c
}

func readVisa(args []string) ([]byte, string, error) {
	name := os.Getenv(instance.VisaVariable)
	if len(args) == 1 {
		name = args[0]
	}
	if name == "" {
		return nil, "", errors.New("visa: name a file: $" + instance.VisaVariable + " is not set, so this is no governed program")
	}
	data, err := readBounded(name, visa.MaxSize)
	if err != nil {
		return nil, "", fmt.Errorf("visa: %w", err)
	}
	return data, name, nil
}

func visaShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show [FILE|-]",
		Short: "Print what a visa says, without verifying it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			data, name, err := readVisa(args)
			if err != nil {
				return err
			}
			claims, err := visa.Read(data)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), claims.View())
			}
			fmt.Fprintln(c.ErrOrStderr(), "not verified: these are claims; check them with 'raypher visa verify'")
			return claims.View().Print(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// visaVerifyFlags are the flags of visa verify.
type visaVerifyFlags struct {
	trust        trustFlags
	journals     journalFlags
	chain        chainFlags
	audience     string
	needAudience bool
	at, nonce    string
	skew         time.Duration
	json         bool
}

func visaVerifyCommand() *cobra.Command {
	var f visaVerifyFlags
	c := &cobra.Command{
		Use:   "verify [FILE|-]",
		Short: "Check a visa offline",
		Long: `Check a visa offline: the signature of the tree head, the proof, then tier, time, audience and nonce. The enclave's key comes from
--enclave-key (see 'raypher evidence key'); without it, from the journals of this host, or from raypherd, which is said. Exit code 1
names the check that failed, and nothing is printed on standard output. That the bearer holds the visa's key is not checked here.

With --root or --evidence the key is not taken on trust: the visa leads, by its epoch and the key that its tree head names, to evidence
of the key, which is checked down to the hardware: a TPM's vendor and who has activated it, or the root of Nitro, and the golden
measurements. A visa of a tier above software is refused without that, unless --allow-unproven-tier.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return f.verify(c, args) },
	}
	f.trust.add(c.Flags())
	f.journals.add(c.Flags())
	f.chain.add(c.Flags())
	c.Flags().StringVar(&f.audience, "audience", "", "verify as this relying party; a visa for another is refused")
	c.Flags().BoolVar(&f.needAudience, "need-audience", false, "refuse visas for anyone")
	c.Flags().StringVar(&f.at, "at", "", "decide for this moment (RFC 3339) instead of now")
	c.Flags().DurationVar(&f.skew, "skew", 0, "forgive this clock difference, at most "+visa.MaxSkew.String())
	c.Flags().StringVar(&f.nonce, "nonce", "", "the visa must hold this nonce, in hexadecimal")
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return c
}

func (f *visaVerifyFlags) verify(c *cobra.Command, args []string) error {
	options := visa.Options{Skew: f.skew, Audience: f.audience, NeedAudience: f.needAudience, AllowSoftware: f.trust.allowSoftware}
	var err error
	if f.at != "" {
		if options.Now, err = time.Parse(time.RFC3339, f.at); err != nil {
			return fmt.Errorf("--at: %w", err)
		}
	}
	if options.Nonce, err = hex.DecodeString(f.nonce); err != nil {
		return fmt.Errorf("--nonce: %w", err)
	}
	data, name, err := readVisa(args)
	if err != nil {
		return err
	}
	if options.Keys, err = f.trust.parse(); err != nil {
		return err
	}
	proven, err := f.prove(c, data, options)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if f.json {
		return printJSON(c.OutOrStdout(), struct {
			visa.View
			KeySource    string `json:"enclave_key_source"`
			EvidenceTime string `json:"evidence_time,omitempty"`
			Golden       string `json:"golden_set,omitempty"`
		}{proven.claims.View(), proven.source, proven.made, proven.golden})
	}
	head := fmt.Sprintf("verified, enclave key: %s\n", proven.source)
	switch {
	case proven.golden != "":
		head += fmt.Sprintf("golden set      %q\n", proven.golden)
	case proven.made != "" && proven.claims.Tier != journal.TierSoftware:
		head += "golden set      not compared: the machine may have booted anything: give --golden\n"
	}
	if _, err := io.WriteString(c.OutOrStdout(), head); err != nil {
		return err
	}
	return proven.claims.View().Print(c.OutOrStdout())
}

// prove checks a visa by the evidence behind its key where that is asked for, else by a key that is given or known here.
func (f *visaVerifyFlags) prove(c *cobra.Command, data []byte, options visa.Options) (*provenVisa, error) {
	if f.chain.asked(c.Flags()) {
		return f.chain.verify(data, &f.journals, c.Flags(), options)
	}
	p := &provenVisa{source: "given"}
	var err error
	if len(options.Keys) == 0 {
		if options.Keys, p.source, err = f.localKey(c.Context(), data); err != nil {
			return nil, err
		}
	}
	if p.claims, err = visa.Verify(data, options); err != nil {
		return nil, err
	}
	if p.claims.Tier != journal.TierSoftware && !f.chain.unproven {
		return nil, fmt.Errorf("%w: %s: nothing but its key says so: give --root, with --evidence where this host has not granted it, or --allow-unproven-tier", visa.ErrTier, p.claims.Tier)
	}
	return p, nil
}

// localKey finds the key for a visa that this host's own enclave granted.
func (f *visaVerifyFlags) localKey(ctx context.Context, data []byte) ([]*journal.Key, string, error) {
	_, receipt, _, err := visa.Split(data)
	if err != nil {
		return nil, "", err
	}
	if f.journals.onDisk() {
		stores, err := f.journals.open()
		if err == nil {
			if keys := keysOf(stores, receipt.Epoch); keys != nil {
				return keys, "from this host's journal, not pinned", nil
			}
		} else if f.journals.named() {
			return nil, "", err
		}
	}
	key, err := keyFromDaemon(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("no enclave key: give it with --enclave-key ('raypher evidence key' prints it where the visa was granted): %w", err)
	}
	return []*journal.Key{key}, "from raypherd on this host, not pinned", nil
}

func visaRequestCommand() *cobra.Command {
	var request client.Request
	var intent, out, nonce string
	var seconds uint32
	c := &cobra.Command{
		Use:   "request",
		Short: "Ask, from inside an agent, for a visa on a narrower intent",
		Long: `Ask, from inside an agent, for a visa on an intent: a policy within the permit that the run started with. Whatever lies beyond it is
refused, item by item. With --hold the guard itself narrows to the intent until the next request: to make that one with raypher, the
intent must grant reading and executing it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if intent != "" {
				if request.Intent, err = readBounded(intent, 1<<20); err != nil {
					return fmt.Errorf("--intent: %w", err)
				}
			}
			if request.Nonce, err = hex.DecodeString(nonce); err != nil {
				return fmt.Errorf("--nonce: %w", err)
			}
			request.Lifetime = time.Duration(seconds) * time.Second
			granted, err := requestVisa(c.Context(), request)
			if (errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrNotGoverned)) && os.Getenv(instance.AgentSocketVariable) == "" {
				return fmt.Errorf("visa request: this is no governed program, $%s is not set: ask from inside one, as in: raypher run --policy policy.yaml -- raypher visa request", instance.AgentSocketVariable)
			}
			if err != nil {
				return err
			}
			return writeVisa(c, granted.Bytes, out)
		},
	}
	c.Flags().StringVar(&intent, "intent", "", "the intent: a policy file; - is standard input (default: the whole permit)")
	c.Flags().StringVar(&request.Audience, "audience", "", "the only relying party that may take the visa")
	c.Flags().Uint32Var(&seconds, "ttl", 0, "lifetime in seconds, at most the enclave's")
	c.Flags().BoolVar(&request.GuardFollows, "hold", false, "the guard narrows to this intent until the next request")
	c.Flags().StringVar(&nonce, "nonce", "", "nonce of the relying party, in hexadecimal, 8 to 64 bytes")
	c.Flags().StringVarP(&out, "out", "o", "", "file to write the visa to (default: standard output, in words on a terminal)")
	return c
}

func requestVisa(ctx context.Context, request client.Request) (*client.Visa, error) {
	raypherd, err := client.FromEnvironment()
	if err != nil {
		return nil, err
	}
	defer raypherd.Close()
	return raypherd.RequestVisa(ctx, request)
}

func writeVisa(c *cobra.Command, data []byte, out string) error {
	claims, err := visa.Read(data)
	if err != nil {
		return fmt.Errorf("visa request: raypherd answered with something else: %w", err)
	}
	if out != "" && out != "-" {
		if err := os.WriteFile(out, data, 0o600); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s: visa of %s, expires %s\n", out, claims.Subject, claims.Expires().UTC().Format(time.RFC3339))
		return err
	}
	if out == "" && isTerminal(c.OutOrStdout()) {
		return claims.View().Print(c.OutOrStdout())
	}
	_, err = c.OutOrStdout().Write(data)
	return err
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
