package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/ceiling"
	device "github.com/raypher/raypher/enclave/signer/tpm"
	"github.com/raypher/raypher/journal"
)

func attestGoldenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "golden",
		Short: "Write, sign and check golden measurements: what PCRs may be",
		Long: `Golden measurements are a list of sets, each one allowed state of a machine (tier tpm) or of an enclave image (tier nitro): the allowed
values of some PCRs. It is written in YAML, signed with an operator key (raypher ceiling keygen), and taken by verifiers
that trust that key. Versions only go upwards.`,
	}
	c.AddCommand(goldenAddCommand(), goldenListCommand(), goldenSignCommand(), goldenCheckCommand())
	return c
}

// goldenAdd is one run of `attest golden add`.
type goldenAdd struct {
	from, device           string
	name, measured, expire string
	pcrs                   []uint
	nitro                  nitroFlags
	tpm                    tpmFlags
}

// defaultExpiry is how long a new list holds.
const defaultExpiry = 365 * 24 * time.Hour

func goldenAddCommand() *cobra.Command {
	var f goldenAdd
	c := &cobra.Command{
		Use:   "add SOURCE.yaml --name NAME (--from EVIDENCE | --tpm-device DEVICE)",
		Short: "Add a set with the values of verified evidence, or of this machine's TPM",
		Long: `Add a set to a list in YAML, and raise its version; a file that is not there is begun. The values are those of evidence that verifies, a
bundle of a TPM or a document of a Nitro enclave, by the flags of 'raypher attest verify'; or, with --tpm-device, those that this machine's
TPM has now, which nobody vouches for but you. Comments in the file are not kept.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			set, err := f.set(c)
			if err != nil {
				return fmt.Errorf("attest golden add: %w", err)
			}
			list, err := f.addTo(args[0], set)
			if err != nil {
				return fmt.Errorf("attest golden add: %w", err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: version %d, set %q with %d PCRs of tier %s: sign it with 'raypher attest golden sign'\n", args[0], list.Version, set.Name, len(set.PCRs), set.Tier)
			return err
		},
	}
	c.Flags().StringVar(&f.name, "name", "", "name of the set, unique in the list")
	c.Flags().StringVar(&f.measured, "set-version", "", "version of what was measured, for people")
	c.Flags().StringVar(&f.expire, "not-after", "", "end of the set, RFC 3339 (default: the list's; a new list holds for a year)")
	c.Flags().UintSliceVar(&f.pcrs, "pcrs", nil, "only these PCRs (default: all of a TPM's evidence; PCR0, 1, 2 and 8 of an enclave)")
	c.Flags().StringVar(&f.from, "from", "", "evidence to verify and to take: a TPM bundle or a Nitro document; - is standard input")
	c.Flags().StringVar(&f.device, "tpm-device", "", "take the PCRs that this TPM has now, unverified")
	f.nitro.add(c.Flags())
	f.tpm.add(c.Flags())
	return c
}

// set makes the set that the flags describe. Its times are the list's where they are zero.
func (f *goldenAdd) set(c *cobra.Command) (*golden.Set, error) {
	if f.name == "" || (f.from == "") == (f.device == "") {
		return nil, errors.New("--name and one of --from and --tpm-device are needed")
	}
	s := &golden.Set{Name: f.name, Version: f.measured}
	var err error
	if c.Flags().Changed("not-after") {
		if s.NotAfter, err = time.Parse(time.RFC3339, f.expire); err != nil {
			return nil, fmt.Errorf("--not-after: %w", err)
		}
	}
	read := f.verified
	if f.device != "" {
		read = f.local
	}
	var values golden.Values
	if s.Tier, values, err = read(c); err != nil {
		return nil, err
	}
	chosen := slices.Clone(f.pcrs)
	if len(chosen) == 0 {
		chosen = defaultPCRs(s.Tier, values)
	}
	slices.Sort(chosen)
	for _, index := range slices.Compact(chosen) {
		value, ok := values[uint64(index)]
		if !ok {
			return nil, fmt.Errorf("--pcrs: PCR %d is not in the evidence", index)
		}
		s.PCRs = append(s.PCRs, golden.Register{Index: uint64(index), Values: [][]byte{value}})
	}
	return s, nil
}

func defaultPCRs(tier string, values golden.Values) []uint {
	var out []uint
	for _, index := range slices.Sorted(maps.Keys(values)) {
		if tier == journal.TierNitro && !slices.Contains([]uint64{0, 1, 2, 8}, index) {
			continue // role and instance differ on every host
		}
		out = append(out, uint(index))
	}
	return out
}

func (f *goldenAdd) local(c *cobra.Command) (string, golden.Values, error) {
	opened, err := device.OpenDevice(f.device)
	if err != nil {
		return "", nil, err
	}
	pcrs, err := device.ReadPCRs(c.Context(), opened, f.pcrs)
	return journal.TierTPM, tpm.GoldenValues(pcrs), err
}

func (f *goldenAdd) verified(c *cobra.Command) (string, golden.Values, error) {
	text, err := readDocument(f.from, c.InOrStdin())
	if err != nil {
		return "", nil, err
	}
	if tierOf(text) == journal.TierTPM {
		o, err := f.tpm.options(&f.nitro, c.Flags())
		if err != nil {
			return "", nil, err
		}
		r, err := tpm.Verify(text, o)
		if err != nil {
			return "", nil, err
		}
		return journal.TierTPM, tpm.GoldenValues(r.PCRs), nil
	}
	d, err := f.nitro.judge(text, c.Flags())
	if err != nil {
		return "", nil, err
	}
	return journal.TierNitro, d.GoldenValues(), nil
}

// tierOf tells the evidence of the tiers apart: a TPM bundle is a CBOR map, a Nitro document an array.
func tierOf(evidence []byte) string {
	const majorType, cborMap = 0xe0, 0xa0 // RFC 8949, section 3.1
	if len(evidence) > 0 && evidence[0]&majorType == cborMap {
		return journal.TierTPM
	}
	return journal.TierNitro
}

// addTo appends the set to the list in a file, which is begun where it is not there.
func (f *goldenAdd) addTo(name string, set *golden.Set) (*golden.List, error) {
	text, err := readBounded(name, golden.MaxFile)
	list := new(golden.List)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		now := time.Now().Truncate(time.Second)
		list.NotBefore, list.NotAfter = now, now.Add(defaultExpiry)
		if set.NotAfter.After(list.NotAfter) {
			list.NotAfter = set.NotAfter
		}
	case err != nil:
		return nil, err
	case golden.Signed(text):
		return nil, fmt.Errorf("%s is signed: name the YAML file that it was signed from", name)
	default:
		if list, err = golden.ParseSource(name, text); err != nil {
			return nil, err
		}
	}
	set.NotBefore = list.NotBefore
	if set.NotAfter.IsZero() {
		set.NotAfter = list.NotAfter
	}
	if err := list.Add(set); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, replaceFile(name, list.Source())
}

func goldenListCommand() *cobra.Command {
	var keys []string
	c := &cobra.Command{
		Use:   "list FILE",
		Short: "Print golden measurements, signed or in YAML",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			list, said, err := listGolden(args[0], keys)
			if err != nil {
				return fmt.Errorf("attest golden list: %w", err)
			}
			return printGolden(c.OutOrStdout(), list, said)
		},
	}
	c.Flags().StringArrayVar(&keys, "golden-key", nil, "verify the signature by this public key, PEM (may be repeated)")
	return c
}

func listGolden(name string, keys []string) (*golden.List, string, error) {
	text, err := readBounded(name, golden.MaxFile)
	if err != nil {
		return nil, "", err
	}
	if len(keys) > 0 {
		f := goldenFlags{keys: keys}
		trusted, err := f.trusted()
		if err != nil {
			return nil, "", err
		}
		list, err := golden.Open(text, trusted)
		return list, "signed by a trusted key", err
	}
	if !golden.Signed(text) {
		list, err := golden.ParseSource(name, text)
		return list, "not signed", err
	}
	list, key, err := golden.Read(text)
	return list, fmt.Sprintf("names key sha256:%x; the signature was not verified", key), err
}

func printGolden(out io.Writer, list *golden.List, said string) error {
	var head strings.Builder
	if list.Hash != (golden.List{}).Hash {
		fmt.Fprintf(&head, "# file sha256:%x\n", list.Hash[:])
	}
	fmt.Fprintf(&head, "# %s\n", said)
	now := time.Now()
	if now.After(list.NotAfter) {
		fmt.Fprintf(&head, "# the list has expired\n")
	}
	for _, s := range list.Sets {
		if now.After(s.NotAfter) {
			fmt.Fprintf(&head, "# set %q has expired\n", s.Name)
		}
	}
	_, err := fmt.Fprintf(out, "%s%s", head.String(), list.Source())
	return err
}

func goldenSignCommand() *cobra.Command {
	var keyFile, out string
	c := &cobra.Command{
		Use:   "sign SOURCE.yaml --key KEY",
		Short: "Check golden measurements and sign them",
		Long: `Check golden measurements in YAML and sign them with an operator key (raypher ceiling keygen). A signed file is replaced only by one with a
higher version.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if keyFile == "" {
				return errors.New("attest golden sign: --key is needed")
			}
			if out == "" {
				out = strings.TrimSuffix(args[0], ".yaml") + ".golden"
			}
			list, err := signGolden(args[0], keyFile, out)
			if err != nil {
				return fmt.Errorf("attest golden sign: %w", err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: version %d, %d sets, until %s, sha256:%x\n", out, list.Version, len(list.Sets), list.NotAfter.UTC().Format(time.RFC3339), list.Hash[:])
			return err
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "private key, as 'raypher ceiling keygen' makes them")
	c.Flags().StringVarP(&out, "out", "o", "", "file to write; SOURCE.golden by default")
	return c
}

func signGolden(source, keyFile, out string) (*golden.List, error) {
	text, err := readBounded(source, golden.MaxFile)
	if err != nil {
		return nil, err
	}
	list, err := golden.ParseSource(source, text)
	if err != nil {
		return nil, err
	}
	if list.NotAfter.Before(time.Now()) {
		return nil, fmt.Errorf("%s: it ended on %s: nobody would take it", source, list.NotAfter.UTC().Format(time.RFC3339))
	}
	keyText, err := readBounded(keyFile, 64<<10)
	if err != nil {
		return nil, err
	}
	key, err := ceiling.ParseKey(keyText)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	if old, err := os.ReadFile(out); err == nil {
		before, _, err := golden.Read(old)
		if err != nil {
			return nil, fmt.Errorf("%s: is there and no signed list: %w", out, err)
		}
		if err := list.Follows(before); err != nil {
			return nil, fmt.Errorf("%s: %w", out, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err := golden.Sign(list, key)
	if err != nil {
		return nil, err
	}
	signed, _, err := golden.Read(file)
	if err != nil {
		return nil, err
	}
	return signed, replaceFile(out, file)
}

func goldenCheckCommand() *cobra.Command {
	var f goldenFlags
	var at string
	c := &cobra.Command{
		Use:   "check EVIDENCE --golden FILE --golden-key KEY",
		Short: "Say which set evidence matches or, PCR by PCR, what differs",
		Long: `Compare evidence, a TPM bundle or a Nitro document, with golden measurements. The evidence itself is not verified here: do that with
'raypher attest verify'. Exit code 0: a set that is in time matches; 1: none does.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkGolden(c, args[0], at, &f); err != nil {
				return fmt.Errorf("attest golden check: %w", err)
			}
			return nil
		},
	}
	f.add(c.Flags())
	c.Flags().StringVar(&at, "at", "", "time of the check, RFC 3339 (default: now)")
	return c
}

func checkGolden(c *cobra.Command, name, at string, f *goldenFlags) error {
	moment := time.Now()
	if c.Flags().Changed("at") {
		var err error
		if moment, err = time.Parse(time.RFC3339, at); err != nil {
			return fmt.Errorf("--at: %w", err)
		}
	}
	list, err := f.load(c.Flags())
	if err != nil {
		return err
	}
	if list == nil {
		return errors.New("--golden is needed")
	}
	text, err := readDocument(name, c.InOrStdin())
	if err != nil {
		return err
	}
	tier, values, err := claimedValues(text)
	if err != nil {
		return err
	}
	set, err := list.Match(tier, moment, values)
	if err == nil {
		_, err = fmt.Fprintf(c.OutOrStdout(), "matches set %q %s\nnot verified: the values are the evidence's own word\n", set.Name, set.Version)
		return err
	}
	var report strings.Builder
	for _, s := range list.Sets {
		if s.Tier == tier {
			fmt.Fprintf(&report, "set %q %s\n", s.Name, s.Version)
			for _, difference := range s.Differences(values) {
				fmt.Fprintf(&report, "  %s\n", difference)
			}
		}
	}
	if _, err := io.WriteString(c.OutOrStdout(), report.String()); err != nil {
		return err
	}
	return err
}

// claimedValues are the PCRs that evidence names, unverified.
func claimedValues(evidence []byte) (string, golden.Values, error) {
	if tierOf(evidence) == journal.TierTPM {
		r, err := tpm.Claimed(evidence)
		if err != nil {
			return "", nil, err
		}
		return journal.TierTPM, tpm.GoldenValues(r.PCRs), nil
	}
	d, err := nitro.Claimed(evidence)
	if err != nil {
		return "", nil, err
	}
	return journal.TierNitro, d.GoldenValues(), nil
}
