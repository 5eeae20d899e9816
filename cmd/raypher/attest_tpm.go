package main

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// tpmFlags say what a bundle of tier tpm is held to, besides the flags that it shares with the documents of Nitro.
type tpmFlags struct {
	eventLog              string
	activated, activators []string
	withoutNonce          bool
}

func (f *tpmFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.eventLog, "event-log", "", "with --tpm: the firmware's event log (binary_bios_measurements), which must explain the PCRs")
	flags.StringArrayVar(&f.activated, "activated", nil, "with --tpm: name of an attestation key that you have activated, in hexadecimal (may be repeated)")
	flags.StringArrayVar(&f.activators, "activator", nil, "with --tpm: public key, PEM, of somebody who is trusted to have activated the attestation key (may be repeated)")
	flags.BoolVar(&f.withoutNonce, "without-nonce", false, "with --tpm: the bundle is of a journal, made for no verifier; its age is not looked at")
}

// none refuses the flags where a document of Nitro is verified, which would be held to less than was asked for.
func (f *tpmFlags) none(flags *pflag.FlagSet) error {
	for _, name := range []string{"event-log", "activated", "activator", "without-nonce"} {
		if flags.Changed(name) {
			return fmt.Errorf("--%s: for bundles of a TPM only", name)
		}
	}
	return nil
}

// verify checks a bundle; shared are the flags that it has in common with Nitro's documents.
func (f *tpmFlags) verify(name string, shared *nitroFlags, flags *pflag.FlagSet, in io.Reader) (*tpm.Result, error) {
	o, err := f.options(shared, flags)
	if err != nil {
		return nil, err
	}
	document, err := readDocument(name, in)
	if err != nil {
		return nil, err
	}
	return tpm.Verify(document, o)
}

func (f *tpmFlags) options(shared *nitroFlags, flags *pflag.FlagSet) (tpm.Options, error) {
	o := tpm.Options{WithoutNonce: f.withoutNonce}
	if len(shared.roots) != 1 {
		return o, errors.New("--root: name one folder with the certificates of the TPM's vendor")
	}
	for _, other := range []string{"pcr", "crl", "allow-debug"} {
		if flags.Changed(other) {
			return o, fmt.Errorf("--%s: for Nitro documents only; --golden says what PCRs of a TPM may be", other)
		}
	}
	e, err := shared.expected(flags)
	if err != nil {
		return o, err
	}
	o.Now, o.Nonce = e.At, e.Nonce
	if !f.withoutNonce {
		o.MaxAge = e.MaxAge
	}
	if o.Roots, err = tpm.LoadRoots(shared.roots[0]); err != nil {
		return o, err
	}
	if err := f.trust(&o); err != nil {
		return o, err
	}
	if o.Golden, err = shared.golden.load(flags); err != nil {
		return o, err
	}
	if flags.Changed("event-log") {
		if o.EventLog, err = readBounded(f.eventLog, tpm.MaxEventLogSize); err != nil {
			return o, fmt.Errorf("--event-log: %w", err)
		}
		if len(o.EventLog) == 0 {
			return o, fmt.Errorf("--event-log %s: empty", f.eventLog)
		}
	}
	return o, nil
}

// trust reads who has activated the attestation key.
func (f *tpmFlags) trust(o *tpm.Options) error {
	for _, text := range f.activated {
		name, err := hex.DecodeString(text)
		if err != nil || len(name) != tpm.AKNameSize {
			return fmt.Errorf("--activated %q: expected %d hexadecimal digits", text, 2*tpm.AKNameSize)
		}
		o.ActivatedAKs = append(o.ActivatedAKs, name)
	}
	for _, path := range f.activators {
		text, err := readBounded(path, maxPKIFile)
		if err != nil {
			return fmt.Errorf("--activator: %w", err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return fmt.Errorf("--activator %s: no PEM", path)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		key, ok := parsed.(*ecdsa.PublicKey)
		if err != nil || !ok {
			return fmt.Errorf("--activator %s: not a public key of ECDSA: make it with openssl pkey -pubout", path)
		}
		o.Activators = append(o.Activators, key)
	}
	return nil
}

// evidenceFlags say how `evidence verify` judges keys of tier tpm: by the TPM's vendor and who has activated it, or by the
// pinned key alone.
type evidenceFlags struct {
	root   string
	tpm    tpmFlags
	golden goldenFlags
}

func (f *evidenceFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.root, "root", "", "for tier tpm: folder with the certificates of the TPM's vendor; for tier nitro: PEM file instead of the AWS root")
	flags.StringArrayVar(&f.tpm.activated, "activated", nil, "for tier tpm: name of an attestation key that you have activated, in hexadecimal (may be repeated)")
	flags.StringArrayVar(&f.tpm.activators, "activator", nil, "for tier tpm: public key, PEM, of somebody who is trusted to have activated the attestation key (may be repeated)")
	f.golden.add(flags)
}

// verifiers returns what judges key evidence of journals. Without roots a key of tier tpm counts only when it is pinned; one of
// tier nitro counts by golden measurements, under the AWS root where --root names no file.
func (f *evidenceFlags) verifiers(flags *pflag.FlagSet, pinned bool) (map[string]evidence.KeyVerifier, error) {
	byTier := map[string]evidence.KeyVerifier{}
	if isFolder(f.root) {
		o, err := f.options(flags)
		if err != nil {
			return nil, err
		}
		byTier[journal.TierTPM] = tpm.KeyVerifier{Options: o}
		return byTier, nil
	}
	if pinned && f.root == "" {
		byTier[journal.TierTPM] = tpm.PinnedKey{}
	}
	if f.root != "" || flags.Changed("golden") {
		v, err := f.nitro(flags, nil, time.Time{})
		if err != nil {
			return nil, err
		}
		byTier[journal.TierNitro] = v
	}
	return byTier, nil
}

// nitro returns what judges key evidence of tier nitro at a time, fresh for a nonce or, without one, of a journal.
func (f *evidenceFlags) nitro(flags *pflag.FlagSet, nonce []byte, at time.Time) (*nitro.KeyVerifier, error) {
	shared := nitroFlags{}
	if f.root != "" {
		shared.roots = []string{f.root}
	}
	config, err := shared.config()
	if err != nil {
		return nil, err
	}
	verifier, err := nitro.NewVerifier(config)
	if err != nil {
		return nil, err
	}
	v := &nitro.KeyVerifier{Verifier: verifier, Expected: nitro.Expected{At: at}, OwnTime: len(nonce) == 0}
	if len(nonce) > 0 {
		v.Expected.Nonce = nonce
	}
	v.Expected.Golden, err = f.golden.load(flags)
	return v, err
}

// options are what evidence of a journal is held to, made for no nonce.
func (f *evidenceFlags) options(flags *pflag.FlagSet) (o tpm.Options, err error) {
	o.WithoutNonce = true
	if o.Roots, err = tpm.LoadRoots(f.root); err != nil {
		return o, err
	}
	if err := f.tpm.trust(&o); err != nil {
		return o, err
	}
	o.Golden, err = f.golden.load(flags)
	return o, err
}

// tpmView is a verified bundle as JSON. Bytes are hexadecimal.
type tpmView struct {
	Tier            string            `json:"tier"`
	PublicKey       string            `json:"public_key"` // PKIX DER
	Key             string            `json:"key"`        // SHA-256 of it, as visas name it
	Timestamp       string            `json:"timestamp"`  // asserted by the enclave
	Nonce           string            `json:"nonce"`
	Epoch           string            `json:"epoch"`
	Configuration   string            `json:"configuration"`
	PCRs            map[string]string `json:"pcrs"` // of the SHA-256 bank
	AttestationKey  string            `json:"attestation_key"`
	EKIssuer        string            `json:"ek_issuer,omitempty"` // of the EK certificate, where an activator's record ties it to the AK
	EKSerial        string            `json:"ek_serial,omitempty"`
	Manufacturer    string            `json:"tpm_manufacturer,omitempty"` // as the EK certificate says, like the model
	Model           string            `json:"tpm_model,omitempty"`
	ResetCount      uint32            `json:"reset_count"`
	RestartCount    uint32            `json:"restart_count"`
	ClockSafe       bool              `json:"clock_safe"`
	FirmwareVersion string            `json:"firmware_version"`
	Golden          string            `json:"golden_set,omitempty"` // with --golden: the set that matches
}

func newTPMView(r *tpm.Result) *tpmView {
	v := &tpmView{
		Tier: journal.TierTPM, PublicKey: hex.EncodeToString(r.Key.PKIX()), Key: r.Key.String(),
		Timestamp: r.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"), Nonce: hex.EncodeToString(r.Nonce),
		Epoch: r.Epoch.String(), Configuration: hex.EncodeToString(r.Configuration[:]), PCRs: map[string]string{},
		AttestationKey: hex.EncodeToString(r.AKName), ResetCount: r.ResetCount, RestartCount: r.RestartCount, ClockSafe: r.Safe, FirmwareVersion: fmt.Sprintf("%016x", r.FirmwareVersion),
		Golden: nameOfSet(r.Golden), Manufacturer: r.TPM.Manufacturer, Model: r.TPM.Model,
	}
	if c := r.EKCertificate; c != nil {
		v.EKIssuer, v.EKSerial = c.Issuer.String(), c.SerialNumber.Text(16)
	}
	for _, p := range r.PCRs {
		v.PCRs[strconv.FormatUint(p.Index, 10)] = hex.EncodeToString(p.Value[:])
	}
	return v
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func printTPM(out io.Writer, r *tpm.Result) error {
	v := newTPMView(r)
	var text strings.Builder
	fmt.Fprintf(&text, "tier        %s\nkey         %s\nmade        %s (the enclave's clock)\nepoch       %s\n", v.Tier, v.Key, v.Timestamp, v.Epoch)
	if v.EKSerial == "" {
		fmt.Fprintf(&text, "TPM         not known: no --activator's record ties its EK certificate to the activated key, firmware %s\n", v.FirmwareVersion)
	} else {
		fmt.Fprintf(&text, "TPM         %s %s, EK %s of %s, firmware %s\n", orDash(v.Manufacturer), orDash(v.Model), v.EKSerial, evidence.Printable(v.EKIssuer), v.FirmwareVersion)
	}
	fmt.Fprintf(&text, "boots       %d resets, %d restarts since\n", v.ResetCount, v.RestartCount)
	if v.Golden != "" {
		fmt.Fprintf(&text, "golden      set %q\n", v.Golden)
	}
	for _, p := range r.PCRs {
		fmt.Fprintf(&text, "%-11s %x\n", "PCR"+strconv.FormatUint(p.Index, 10), p.Value[:])
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func attestFetchCommand() *cobra.Command {
	var nonce, out string
	c := &cobra.Command{
		Use:   "fetch --nonce HEX --out FILE",
		Short: "Ask this host's enclave for evidence of its key, fresh for a nonce",
		Long: `Ask the enclave of this host, through raypherd, for evidence of its key. The nonce is chosen by whoever will verify: 8 to 64 random
bytes. What the file holds depends on the tier, which is printed.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			value, err := hex.DecodeString(nonce)
			if err != nil || len(value) < tpm.MinNonceSize || len(value) > tpm.MaxNonceSize || out == "" {
				return fmt.Errorf("attest fetch: --nonce (%d to %d bytes in hexadecimal) and --out are needed", tpm.MinNonceSize, tpm.MaxNonceSize)
			}
			return withOperator(func(operator parentv1.OperatorClient) error {
				a, err := operator.Attest(c.Context(), &parentv1.OperatorAttestRequest{Nonce: value})
				if err != nil {
					return err
				}
				if err := writeNew(out, a.GetDocument(), 0o644); err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "evidence of tier %s in %s\n", evidence.Printable(a.GetTier()), evidence.Printable(out))
				return err
			})
		},
	}
	c.Flags().StringVar(&nonce, "nonce", "", "the verifier's nonce, in hexadecimal")
	c.Flags().StringVar(&out, "out", "", "where to write the evidence; the file must not exist")
	return c
}

func attestChallengeCommand() *cobra.Command {
	var root, out string
	c := &cobra.Command{
		Use:   "challenge IDENTITY --root DIR --out NAME",
		Short: "Ask a TPM to prove that its attestation key is its own (first step of an activation)",
		Long: `Make a challenge for the TPM whose identity 'raypher-enclave tpm identity' has printed. NAME.challenge goes to that machine, for
'raypher-enclave tpm activate'; NAME.secret stays here, for 'raypher attest record': whoever reads it can fake the answer.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if root == "" || out == "" {
				return errors.New("attest challenge: --root and --out are needed")
			}
			if err := makeChallenge(args[0], root, out, c.InOrStdin()); err != nil {
				return fmt.Errorf("attest challenge: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&root, "root", "", "folder with the certificates of the TPM's vendor")
	c.Flags().StringVar(&out, "out", "", "where to write the challenge, without its ending")
	return c
}

func makeChallenge(identity, root, out string, in io.Reader) error {
	text, err := readDocument(identity, in)
	if err != nil {
		return err
	}
	id, err := tpm.ParseIdentity(text)
	if err != nil {
		return err
	}
	roots, err := tpm.LoadRoots(root)
	if err != nil {
		return err
	}
	challenge, err := tpm.NewChallenge(*id, roots, time.Now())
	if err != nil {
		return err
	}
	if err := writeNew(out+".secret", challenge.Keep(), 0o600); err != nil {
		return err
	}
	return writeNew(out+".challenge", challenge.Message(), 0o644)
}

func attestRecordCommand() *cobra.Command {
	var secret, key, out string
	c := &cobra.Command{
		Use:   "record ANSWER --secret NAME.secret --key KEY --out FILE",
		Short: "Check a TPM's answer to a challenge and put it on record (second step of an activation)",
		Long: `Compare the answer of 'raypher-enclave tpm activate' with the secret, and sign the record with a key of yours (P-256, PKCS #8 in PEM).
The record goes into the enclave's state folder as tpm.activation; 'raypher attest verify --tpm' takes it with --activator and
the public half of that key. The secret is removed, right or wrong.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if secret == "" || key == "" || out == "" {
				return errors.New("attest record: --secret, --key and --out are needed")
			}
			if err := recordActivation(args[0], secret, key, out, c.InOrStdin()); err != nil {
				return fmt.Errorf("attest record: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&secret, "secret", "", "what 'raypher attest challenge' has kept")
	c.Flags().StringVar(&key, "key", "", "private key that signs the record")
	c.Flags().StringVar(&out, "out", "", "where to write the record")
	return c
}

func recordActivation(answer, secret, key, out string, in io.Reader) error {
	text, err := readBounded(key, maxPKIFile)
	if err != nil {
		return fmt.Errorf("--key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("--key %s: no PEM", key)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return fmt.Errorf("--key %s: not an ECDSA key: make one with openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", key)
	}
	kept, err := readBounded(secret, maxPKIFile)
	if err != nil {
		return fmt.Errorf("--secret: %w", err)
	}
	challenge, err := tpm.Resume(kept)
	if err != nil {
		return fmt.Errorf("--secret %s: %w", secret, err)
	}
	said, err := readDocument(answer, in)
	if err != nil {
		return err
	}
	// The secret serves once: what can go wrong without it goes wrong first.
	if _, err := os.Lstat(out); err == nil {
		return fmt.Errorf("--out %s: is there already: choose another name", out)
	}
	if err := os.Remove(secret); err != nil {
		return fmt.Errorf("--secret: %w", err)
	}
	if err := challenge.Finish(said); err != nil {
		return err
	}
	record, err := challenge.Record(private, time.Now())
	if err != nil {
		return err
	}
	return writeNew(out, record, 0o644)
}
