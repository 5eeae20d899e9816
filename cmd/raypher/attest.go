package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func attestCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "attest",
		Short: "Verify what hardware says about the place where an enclave key lives",
	}
	c.AddCommand(attestVerifyCommand(), attestFetchCommand(), attestChallengeCommand(), attestRecordCommand(), attestGoldenCommand(), attestKeyCommand(), attestResultCommand())
	return c
}

func attestVerifyCommand() *cobra.Command {
	var document, bundle string
	var f nitroFlags
	var t tpmFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify --nitro DOC | --tpm BUNDLE",
		Short: "Verify an attestation document offline",
		Long: `Verify the attestation document of an AWS Nitro enclave, as the hypervisor wrote it (CBOR), offline. Exit code 0: every check passed,
and what the document says stands on standard output; 1: it is refused, and one line on standard error begins with the check
that failed. Without --pcr it is proven that some enclave made the document, not which; without --nonce, not for whom.

With --tpm: verify the bundle of an enclave whose key lies in a TPM 2.0. --root names a folder with the certificates of the TPM's
vendor; --nonce (or --without-nonce), and --activated or --activator are needed.`,
		Args: func(c *cobra.Command, args []string) error { return refused(cobra.NoArgs(c, args)) },
		RunE: func(c *cobra.Command, _ []string) error {
			if bundle != "" && document != "" {
				return refused(errors.New("--nitro and --tpm: one at a time"))
			}
			if bundle != "" {
				r, err := t.verify(bundle, &f, c.Flags(), c.InOrStdin())
				if err != nil {
					return refused(err)
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), newTPMView(r))
				}
				return printTPM(c.OutOrStdout(), r)
			}
			if document == "" {
				return refused(errors.New("name the document with --nitro, or the bundle with --tpm; - is standard input"))
			}
			if err := t.none(c.Flags()); err != nil {
				return refused(err)
			}
			d, err := f.verify(document, c.Flags(), c.InOrStdin())
			if err != nil {
				return refused(err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), newNitroView(d))
			}
			return printNitro(c.OutOrStdout(), d)
		},
	}
	c.Flags().StringVar(&document, "nitro", "", "attestation document of a Nitro enclave; - is standard input")
	c.Flags().StringVar(&bundle, "tpm", "", "bundle of an enclave on a TPM; - is standard input")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	f.add(c.Flags())
	t.add(c.Flags())
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return refused(err) })
	return c
}

// refused keeps the contract of `attest verify` with programs that call it, whatever went wrong: exit code 1 and one line.
func refused(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{1, oneLine{fmt.Errorf("attest verify: %w", err)}}
}

// oneLine prints an error that has several lines, as those about a file may, on one.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.ReplaceAll(e.error.Error(), "\n", "; ") }
func (e oneLine) Unwrap() error { return e.error }

// nitroFlags say what a document is held to.
type nitroFlags struct {
	roots, lists, pcrs []string
	nonce, at          string
	maxAge             time.Duration
	allowDebug         bool
	golden             goldenFlags // of both tiers
}

func (f *nitroFlags) add(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.roots, "root", nil, "trust the root certificates in this PEM file instead of the AWS root (may be repeated)")
	flags.StringArrayVar(&f.lists, "crl", nil, "revocation lists, DER or PEM; each certificate that names a list must then be covered (may be repeated)")
	flags.StringVar(&f.nonce, "nonce", "", "the nonce that the document must carry, in hexadecimal")
	flags.StringVar(&f.at, "at", "", "time of the check, RFC 3339 (default: now)")
	flags.StringArrayVar(&f.pcrs, "pcr", nil, "a register's wanted value, INDEX=HEX (may be repeated)")
	flags.BoolVar(&f.allowDebug, "allow-debug", false, "accept an enclave in debug mode, which hides nothing from its host")
	flags.DurationVar(&f.maxAge, "max-age", nitro.DefaultMaxAge, "how old the document may be at the time of the check")
	f.golden.add(flags)
}

func (f *nitroFlags) verify(name string, flags *pflag.FlagSet, in io.Reader) (*nitro.Document, error) {
	document, err := readDocument(name, in)
	if err != nil {
		return nil, err
	}
	return f.judge(document, flags)
}

// judge verifies a document by the flags.
func (f *nitroFlags) judge(document []byte, flags *pflag.FlagSet) (*nitro.Document, error) {
	config, err := f.config()
	if err != nil {
		return nil, err
	}
	expected, err := f.expected(flags)
	if err != nil {
		return nil, err
	}
	if expected.Golden, err = f.golden.load(flags); err != nil {
		return nil, err
	}
	verifier, err := nitro.NewVerifier(config)
	if err != nil {
		return nil, fmt.Errorf("--crl: %w", err)
	}
	return verifier.Verify(document, expected)
}

// readDocument reads one byte more than a document may have, so that the verifier judges its size.
func readDocument(name string, in io.Reader) ([]byte, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	return io.ReadAll(io.LimitReader(in, nitro.MaxDocumentSize+1))
}

// maxPKIFile bounds files of certificates and revocation lists, in bytes.
const maxPKIFile = 16 << 20

func (f *nitroFlags) config() (nitro.Config, error) {
	var c nitro.Config
	for _, name := range f.roots {
		text, err := readBounded(name, maxPKIFile)
		if err != nil {
			return c, fmt.Errorf("--root: %w", err)
		}
		roots, err := nitro.ParseRoots(text)
		if err != nil {
			return c, fmt.Errorf("--root %s: %w", name, err)
		}
		c.Roots = append(c.Roots, roots...)
	}
	for _, name := range f.lists {
		text, err := readBounded(name, maxPKIFile)
		if err != nil {
			return c, fmt.Errorf("--crl: %w", err)
		}
		lists, err := nitro.ParseLists(text)
		if err != nil {
			return c, fmt.Errorf("--crl %s: %w", name, err)
		}
		c.Lists = append(c.Lists, lists...)
	}
	return c, nil
}

// expected refuses flags that are given and empty: a script whose variable is unset must not check less.
func (f *nitroFlags) expected(flags *pflag.FlagSet) (nitro.Expected, error) {
	e := nitro.Expected{MaxAge: f.maxAge, AllowDebug: f.allowDebug, PCRs: map[int]nitro.PCR{}}
	if f.maxAge <= 0 {
		return e, fmt.Errorf("--max-age %s: give a positive duration", f.maxAge)
	}
	var err error
	if flags.Changed("at") {
		if e.At, err = time.Parse(time.RFC3339, f.at); err != nil || e.At.IsZero() {
			return e, fmt.Errorf("--at %q: expected a time as in 2026-01-02T15:04:05Z", f.at)
		}
	}
	if flags.Changed("nonce") {
		if e.Nonce, err = hex.DecodeString(f.nonce); err != nil || len(e.Nonce) == 0 {
			return e, fmt.Errorf("--nonce %q: expected bytes in hexadecimal", f.nonce)
		}
	}
	for _, text := range f.pcrs {
		name, value, _ := strings.Cut(text, "=")
		index, err := strconv.ParseUint(name, 10, 5) // PCR0 to PCR31
		want, errValue := hex.DecodeString(value)
		if err != nil || errValue != nil || len(want) != nitro.PCRSize {
			return e, fmt.Errorf("--pcr %q: expected an index from 0 to 31, = and %d hexadecimal digits", text, 2*nitro.PCRSize)
		}
		if _, twice := e.PCRs[int(index)]; twice {
			return e, fmt.Errorf("--pcr %q: PCR%d is wanted twice", text, index)
		}
		e.PCRs[int(index)] = nitro.PCR(want)
	}
	return e, nil
}

// nitroView is a verified document as JSON. Bytes are hexadecimal; what the enclave left out is null.
type nitroView struct {
	Tier      string            `json:"tier"`
	ModuleID  string            `json:"module_id"`
	Timestamp string            `json:"timestamp"` // RFC 3339 in milliseconds, UTC
	PCRs      map[string]string `json:"pcrs"`
	PublicKey *string           `json:"public_key"`
	UserData  *string           `json:"user_data"`
	Nonce     *string           `json:"nonce"`
	Debug     bool              `json:"debug"`
	Golden    string            `json:"golden_set,omitempty"` // with --golden: the set that matches
	// Of a document about an enclave's signing key, from its user data.
	Epoch         string `json:"epoch,omitempty"`
	Configuration string `json:"configuration,omitempty"` // sha256 of the start configuration
	Head          string `json:"journal_head,omitempty"`  // sha256 of the journal's newest signed tree head
}

// nameOfSet is empty where nothing was compared.
func nameOfSet(s *golden.Set) string {
	if s == nil {
		return ""
	}
	return s.Name
}

func newNitroView(d *nitro.Document) *nitroView {
	optional := func(b []byte) *string {
		if b == nil {
			return nil
		}
		text := hex.EncodeToString(b)
		return &text
	}
	v := &nitroView{
		Tier:      journal.TierNitro,
		ModuleID:  d.ModuleID,
		Timestamp: d.Timestamp.Format("2006-01-02T15:04:05.000Z07:00"),
		PCRs:      map[string]string{},
		PublicKey: optional(d.PublicKey),
		UserData:  optional(d.UserData),
		Nonce:     optional(d.Nonce),
		Debug:     d.Debug,
		Golden:    nameOfSet(d.Golden),
	}
	if b, err := d.Binding(); err == nil {
		v.Epoch, v.Configuration, v.Head = b.Epoch.String(), hex.EncodeToString(b.Configuration[:]), hex.EncodeToString(b.Head)
	}
	for index, value := range d.PCRs {
		v.PCRs[strconv.Itoa(index)] = hex.EncodeToString(value[:])
	}
	return v
}

func printNitro(out io.Writer, d *nitro.Document) error {
	v := newNitroView(d)
	var text strings.Builder
	fmt.Fprintf(&text, "tier        %s\nmodule      %s\nmade        %s\n", v.Tier, evidence.Printable(v.ModuleID), v.Timestamp)
	if d.Debug {
		fmt.Fprintf(&text, "debug       yes: the enclave hides nothing from its host\n")
	}
	if v.Golden != "" {
		fmt.Fprintf(&text, "golden      set %q\n", v.Golden)
	}
	for index := range 32 {
		if value, ok := d.PCRs[index]; ok && value != (nitro.PCR{}) {
			fmt.Fprintf(&text, "%-11s %x\n", "PCR"+strconv.Itoa(index), value[:])
		}
	}
	for _, field := range []struct {
		name  string
		value *string
	}{{"public key", v.PublicKey}, {"user data", v.UserData}, {"nonce", v.Nonce}} {
		if field.value != nil {
			fmt.Fprintf(&text, "%-11s %s\n", field.name, *field.value)
		}
	}
	for _, said := range []struct{ name, value string }{{"epoch", v.Epoch}, {"start conf", v.Configuration}, {"log head", v.Head}} {
		if said.value != "" {
			fmt.Fprintf(&text, "%-11s %s\n", said.name, said.value)
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}
