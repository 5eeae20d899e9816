package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/startconf"
	"github.com/spf13/cobra"
)

func eifCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "eif",
		Short: "Build, measure, sign and describe the images that Nitro Enclaves boot",
	}
	c.AddCommand(eifBuildCommand(), eifMeasureCommand(), eifSignCommand(), eifDescribeCommand())
	return c
}

func eifMeasureCommand() *cobra.Command {
	var (
		asJSON        bool
		configuration string
	)
	c := &cobra.Command{
		Use:   "measure IMAGE",
		Short: "Print the PCR values with which an image boots",
		Long: `Print the PCR values with which an image boots: PCR0 is kernel, command line and all ramdisks, PCR1 kernel, command line and the
first ramdisk, PCR2 the other ramdisks, and PCR8 the certificate of the signature, where there is one. The whole image is checked
first: its form, its CRC, its signature. Exit code 1: refused, and the line on standard error begins with the check that failed.

With --configuration also PCR16, which an enclave of Raypher extends with the hash of its start configuration before it has a key: for policies
that allow an image with one configuration only, as those of KMS keys should.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			image, _, err := readImage(args[0])
			var configured *eif.PCR
			if err == nil && configuration != "" {
				configured, err = configurationPCR(configuration)
			}
			if err != nil {
				return fmt.Errorf("eif measure: %w", err)
			}
			return printMeasurements(c.OutOrStdout(), image.Measurements, configured, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().StringVar(&configuration, "configuration", "", "start configuration (ibev.conf): print the PCR16 of an enclave that is started with it")
	return c
}

func eifDescribeCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "describe IMAGE",
		Short: "Print what is in an image",
		Long: `Print the sections, the metadata, the signer and the PCR values of an image, after checking all of it. What the metadata say is their
writer's word: nothing measures them.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			image, _, err := readImage(args[0])
			if err != nil {
				return fmt.Errorf("eif describe: %w", err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), newImageView(image))
			}
			return printImage(c.OutOrStdout(), image)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func eifSignCommand() *cobra.Command {
	var keyFile, certificateFile, out string
	c := &cobra.Command{
		Use:   "sign IMAGE --private-key PEM --signing-certificate PEM --out FILE",
		Short: "Sign an image, which sets its PCR8",
		Long: `Append a signature section to an image: COSE_Sign1 (ES384) over its PCR0, with an EC key on P-384 and the certificate of that key.
PCR0, PCR1 and PCR2 stay as they are; PCR8 becomes that of the certificate. The same image, key and certificate make the same bytes.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			signed, err := signImage(args[0], keyFile, certificateFile)
			if err == nil {
				err = writeImage(c.OutOrStdout(), out, signed)
			}
			if err != nil {
				return fmt.Errorf("eif sign: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&keyFile, "private-key", "", "PEM file with an EC key on P-384")
	c.Flags().StringVar(&certificateFile, "signing-certificate", "", "PEM file with the one certificate of that key")
	c.Flags().StringVar(&out, "out", "", "where to write the signed image")
	require(c, "private-key", "signing-certificate", "out")
	return c
}

func signImage(name, keyFile, certificateFile string) ([]byte, error) {
	const maxPEM = 64 << 10 // bytes
	_, raw, err := readImage(name)
	if err != nil {
		return nil, err
	}
	text, err := readBounded(keyFile, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("--private-key: %w", err)
	}
	key, err := eif.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("--private-key %s: %w", keyFile, err)
	}
	if text, err = readBounded(certificateFile, maxPEM); err != nil {
		return nil, fmt.Errorf("--signing-certificate: %w", err)
	}
	certificate, err := eif.ParseCertificate(text)
	if err != nil {
		return nil, fmt.Errorf("--signing-certificate %s: %w", certificateFile, err)
	}
	if now := time.Now(); now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
		return nil, fmt.Errorf("--signing-certificate %s: valid from %s to %s, which is not now: the hypervisor starts no image with it",
			certificateFile, certificate.NotBefore.Format(time.RFC3339), certificate.NotAfter.Format(time.RFC3339))
	}
	return eif.Sign(raw, key, certificate)
}

func require(c *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // the flag stands a few lines above
		}
	}
}

// readImage reads an image and checks all of it.
func readImage(name string) (*eif.Image, []byte, error) {
	raw, err := readBounded(name, eif.MaxSize)
	if err != nil {
		return nil, nil, err
	}
	image, err := eif.Parse(raw)
	if err != nil {
		return nil, nil, err
	}
	return image, raw, nil
}

// writeImage writes an image and prints its measurements, as they are read back from its bytes.
func writeImage(out io.Writer, file string, raw []byte) error {
	image, err := eif.Parse(raw)
	if err != nil {
		return err
	}
	if err := replaceFile(file, raw); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return printMeasurements(out, image.Measurements, nil, true)
}

func configurationPCR(file string) (*eif.PCR, error) {
	c, err := startconf.Read(file)
	if err != nil {
		return nil, err
	}
	value := eif.PCR(nitro.ConfigurationValue(c.Hash()))
	return &value, nil
}

// printMeasurements prints the registers of an image, and that of a start configuration unless it is nil.
func printMeasurements(out io.Writer, m eif.Measurements, configured *eif.PCR, asJSON bool) error {
	if asJSON && configured == nil {
		return printJSON(out, m)
	}
	if asJSON {
		text, err := json.Marshal(m)
		all := make(map[string]string)
		if err = errors.Join(err, json.Unmarshal(text, &all)); err != nil {
			return err
		}
		all[fmt.Sprintf("PCR%d", nitro.ConfigurationPCR)] = hex.EncodeToString(configured[:])
		return printJSON(out, all)
	}
	var err error
	for _, p := range []struct {
		name  string
		value *eif.PCR
	}{{"PCR0", &m.PCR0}, {"PCR1", &m.PCR1}, {"PCR2", &m.PCR2}, {"PCR8", m.PCR8}, {"PCR16", configured}} {
		if p.value != nil && err == nil {
			_, err = fmt.Fprintf(out, "%s  %x\n", p.name, *p.value)
		}
	}
	return err
}

// imageView is `eif describe --json`.
type imageView struct {
	Architecture eif.Architecture
	Memory       uint64 `json:"DefaultMemory"` // bytes
	CPUs         uint64 `json:"DefaultCPUs"`
	CRC          string
	CommandLine  string
	Sections     []sectionView
	Metadata     eif.Description
	Signature    *signerView `json:",omitempty"`
	Measurements eif.Measurements
}

type sectionView struct {
	Type   string
	Offset uint64
	Size   int    // of the contents, in bytes
	SHA384 string // of the contents
}

type signerView struct {
	Subject, Issuer     string
	NotBefore, NotAfter time.Time
}

func newImageView(i *eif.Image) imageView {
	v := imageView{
		Architecture: i.Architecture, Memory: i.Memory, CPUs: i.CPUs, CRC: fmt.Sprintf("%08x", i.CRC), CommandLine: i.CommandLine(),
		Metadata: i.Metadata, Measurements: i.Measurements,
	}
	for _, s := range i.Sections {
		digest := s.Digest()
		v.Sections = append(v.Sections, sectionView{s.Type.String(), s.Offset, len(s.Data), hex.EncodeToString(digest[:])})
	}
	if i.Signature != nil {
		c := i.Signature.Certificate
		v.Signature = &signerView{c.Subject.String(), c.Issuer.String(), c.NotBefore, c.NotAfter}
	}
	return v
}

func printImage(out io.Writer, i *eif.Image) error {
	v := newImageView(i)
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(table, "section\toffset\tbytes\tSHA-384 of the contents\n")
	for _, s := range v.Sections {
		fmt.Fprintf(table, "%s\t%d\t%d\t%.16s...\n", s.Type, s.Offset, s.Size, s.SHA384)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	b := v.Metadata.Build
	lines := [][2]string{
		{"architecture", string(v.Architecture)}, {"command line", v.CommandLine}, {"crc", v.CRC},
		{"name", v.Metadata.Name}, {"version", v.Metadata.Version}, {"kernel", b.OperatingSystem + " " + b.KernelVersion},
		{"built", b.BuildTime + " by " + b.BuildTool + " " + b.BuildToolVersion},
	}
	if s := v.Signature; s != nil {
		lines = append(lines, [2]string{"signed by", s.Subject},
			[2]string{"certificate", s.NotBefore.Format(time.RFC3339) + " to " + s.NotAfter.Format(time.RFC3339)})
	} else {
		lines = append(lines, [2]string{"signed by", "nobody"})
	}
	var errs error
	fmt.Fprintln(out)
	for _, l := range lines {
		_, err := fmt.Fprintf(out, "%-13s %s\n", l[0], evidence.Printable(l[1]))
		errs = errors.Join(errs, err)
	}
	fmt.Fprintln(out)
	return errors.Join(errs, printMeasurements(out, v.Measurements, nil, false))
}
