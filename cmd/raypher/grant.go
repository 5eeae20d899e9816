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

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func grantCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "grant",
		Short: "Sign and install credit for this host: so much a month, spent in leases that no copy can spend again",
		Long: `A grant is so much credit (money, or visas) for one host in one month, signed by an operator key. The enclave
spends it in leases, which a counter outside of it counts: in the TPM on tier tpm; else at the controller that its start
configuration names; and on tier software without one in a file, which is no protection. A grant names the counter and its
value, as "grant status" shows them:

  host     $ raypher grant status
  operator $ raypher grant sign --key KEY --version 1 --cap 500usd --anchor sha256:... --baseline 17 -o GRANT
  host     $ raypher grant install GRANT`,
	}
	c.AddCommand(grantSignCommand(), grantShowCommand(), grantInstallCommand(), grantStatusCommand(), grantAuditCommand())
	return c
}

// grantFlags are what an operator says.
type grantFlags struct {
	version, baseline             uint64
	period, namespace, most, size string
	anchor, notBefore, notAfter   string
	keyFile, out, zone            string
	ahead                         int
}

// Room that is left between the grants of two months, for those that top one of them up.
const (
	versionsBetween = 100 // versions of a month
	leasesBetween   = 2   // times the leases of one
)

// months are a grant and those of the months behind it, as many as are signed ahead.
func (f *grantFlags) months(g *lease.Grant) ([]*lease.Grant, error) {
	if f.ahead < 0 || f.ahead >= lease.MaxAhead {
		return nil, fmt.Errorf("--ahead %d: use 0 to %d", f.ahead, lease.MaxAhead-1)
	}
	if f.ahead > 0 && (f.notBefore != "" || f.notAfter != "") {
		return nil, errors.New("--ahead: whole months only: leave --not-before and --not-after out")
	}
	all := []*lease.Grant{g}
	for range f.ahead {
		last := *all[len(all)-1]
		next := last
		next.Version, next.Baseline = last.Version+versionsBetween, last.Baseline+leasesBetween*last.Leases()
		first, err := time.Parse("2006-01", last.Period)
		if err != nil {
			return nil, err
		}
		next.Period = first.AddDate(0, 1, 0).Format("2006-01")
		if next.NotBefore, next.NotAfter, err = lease.MonthIn(next.Period, next.Zone); err != nil {
			return nil, err
		}
		all = append(all, &next)
	}
	return all, nil
}

func grantSignCommand() *cobra.Command {
	var f grantFlags
	c := &cobra.Command{
		Use:   "sign",
		Short: "Sign a grant with an operator key, offline",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			g, err := f.grant(time.Now())
			if err != nil {
				return err
			}
			text, err := readBounded(f.keyFile, 64<<10)
			if err != nil {
				return err
			}
			key, err := ceiling.ParseKey(text)
			if err != nil {
				return fmt.Errorf("%s: %w", f.keyFile, err)
			}
			months, err := f.months(g)
			if err != nil {
				return err
			}
			for _, g := range months {
				signed, err := lease.Sign(g, key)
				if err != nil {
					return err
				}
				name := f.out
				if len(months) > 1 {
					name += "-" + g.Period
				}
				if err := os.WriteFile(name, signed, 0o644); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s: version %d, %s in %s, %d leases from counter %d\n", name, g.Version, amount(g.Cap, g.Unit), g.Period, g.Leases(), g.Baseline)
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.Uint64Var(&f.version, "version", 0, "larger than that of every grant before; the same is never signed twice")
	flags.StringVar(&f.most, "cap", "", "so much at most: dollars as 500usd or 0.25usd, or visas as 100000visas")
	flags.StringVar(&f.size, "lease", "", "how much is spent at one count, and lost at a restart; as --cap (default 1 % of it)")
	flags.StringVar(&f.anchor, "anchor", "", "the counter of the host: anchor of 'raypher grant status'")
	flags.Uint64Var(&f.baseline, "baseline", 0, "value of the counter now: counter of 'raypher grant status'")
	flags.StringVar(&f.period, "period", "", "month, as 2026-11, in --zone (default this one)")
	flags.StringVar(&f.zone, "zone", "UTC", "time zone of the month, an IANA name: time_zone of the cost control")
	flags.IntVar(&f.ahead, "ahead", 0, "so many further months too, each in a file of its own (OUT-2026-12), with room for top-ups between them")
	flags.StringVar(&f.notBefore, "not-before", "", "begin within the month, RFC 3339 (default the month's)")
	flags.StringVar(&f.notAfter, "not-after", "", "end within the month, RFC 3339 (default the month's)")
	flags.StringVar(&f.namespace, "namespace", "", "who may spend it (default the whole host)")
	flags.StringVar(&f.keyFile, "key", "", "operator key, as 'raypher ceiling keygen' made it")
	flags.StringVarP(&f.out, "out", "o", "", "file to write")
	for _, name := range []string{"version", "cap", "anchor", "baseline", "key", "out"} {
		c.MarkFlagRequired(name)
	}
	return c
}

// grant is what the flags say. Its bounds are for lease.Sign to check.
func (f *grantFlags) grant(now time.Time) (*lease.Grant, error) {
	g := &lease.Grant{Version: f.version, Period: f.period, Namespace: f.namespace, Baseline: f.baseline}
	zone, err := time.LoadLocation(f.zone)
	if err != nil {
		return nil, fmt.Errorf("--zone %.80q: use an IANA name, like Europe/Berlin", f.zone)
	}
	if zone != time.UTC {
		g.Zone = f.zone
	}
	if g.Period == "" {
		g.Period = now.In(zone).Format("2006-01")
	}
	digits, ok := strings.CutPrefix(f.anchor, "sha256:")
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil || len(raw) != len(g.Anchor) {
		return nil, fmt.Errorf("--anchor %.80q: copy it from `raypher grant status`", f.anchor)
	}
	g.Anchor = [32]byte(raw)
	if g.Cap, g.Unit, err = parseAmount(f.most); err != nil {
		return nil, fmt.Errorf("--cap: %w", err)
	}
	g.Lease = (g.Cap + lease.DefaultLeases - 1) / lease.DefaultLeases
	if f.size != "" {
		var unit string
		if g.Lease, unit, err = parseAmount(f.size); err != nil || unit != g.Unit {
			return nil, fmt.Errorf("--lease %.40q: use the unit of --cap", f.size)
		}
	}
	if g.NotBefore, g.NotAfter, err = lease.MonthIn(g.Period, g.Zone); err != nil {
		return nil, err
	}
	for _, t := range []struct {
		name, text string
		to         *int64
	}{{"--not-before", f.notBefore, &g.NotBefore}, {"--not-after", f.notAfter, &g.NotAfter}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return nil, fmt.Errorf("%s %.40q: write it as 2026-11-30T12:00:00Z", t.name, t.text)
		}
		*t.to = at.Unix()
	}
	return g, nil
}

const microPerDollar = 1_000_000

var errAmount = errors.New("use dollars as 500usd or 0.25usd, or visas as 100000visas")

// parseAmount reads 500usd, 0.25usd or 100000visas, exactly: no floating point touches money.
func parseAmount(text string) (n uint64, unit string, err error) {
	if digits, ok := strings.CutSuffix(text, "visas"); ok {
		n, err = strconv.ParseUint(digits, 10, 63)
		if err != nil {
			return 0, "", fmt.Errorf("%.40q: %w", text, errAmount)
		}
		return n, lease.Visas, nil
	}
	digits, ok := strings.CutSuffix(text, "usd")
	whole, part, _ := strings.Cut(digits, ".")
	if !ok || len(part) > 6 || strings.HasSuffix(digits, ".") {
		return 0, "", fmt.Errorf("%.40q: %w", text, errAmount)
	}
	dollars, err := strconv.ParseUint(whole, 10, 63)
	micro, err2 := strconv.ParseUint(part+strings.Repeat("0", 6-len(part)), 10, 63)
	if err != nil || err2 != nil || dollars > lease.MaxCap/microPerDollar {
		return 0, "", fmt.Errorf("%.40q: %w", text, errAmount)
	}
	return dollars*microPerDollar + micro, lease.MicroUSD, nil
}

// amount is how people write it.
func amount(n uint64, unit string) string {
	if unit == lease.MicroUSD {
		return fmt.Sprintf("%d.%06d usd", n/microPerDollar, n%microPerDollar)
	}
	return fmt.Sprintf("%d %s", n, unit)
}

func grantShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show GRANT",
		Short: "Print what is in a grant, without verifying it",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			signed, err := readBounded(args[0], journal.MaxGrantSize)
			if err != nil {
				return err
			}
			g, key, err := lease.Read(signed)
			if err != nil {
				return err
			}
			printGrant(c.OutOrStdout(), g)
			_, err = fmt.Fprintf(c.OutOrStdout(), "names key     sha256:%x; the signature was not verified\n", key)
			return err
		},
	}
}

func printGrant(out io.Writer, g *lease.Grant) {
	whom := "the whole host"
	if g.Namespace != "" {
		whom = "namespace " + g.Namespace
	}
	fmt.Fprintf(out, "grant         version %d, %s for %s\n", g.Version, amount(g.Cap, g.Unit), whom)
	zone := g.Zone
	if zone == "" {
		zone = "UTC"
	}
	fmt.Fprintf(out, "period        %s in %s, from %s until %s\n", g.Period, zone, clock(g.NotBefore), clock(g.NotAfter))
	fmt.Fprintf(out, "leases        %d of %s\n", g.Leases(), amount(g.Lease, g.Unit))
	fmt.Fprintf(out, "names anchor  sha256:%x, baseline %d\n", g.Anchor, g.Baseline)
}

func clock(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

func grantInstallCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install GRANT",
		Short: "Hand a grant to the enclave of this host; what the one before still held is gone. One of a later month waits for it",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			signed, err := readBounded(args[0], journal.MaxGrantSize)
			if err != nil {
				return err
			}
			if _, _, err := lease.Read(signed); err != nil {
				return err
			}
			return withOperator(func(operator parentv1.OperatorClient) error {
				status, err := operator.InstallGrant(c.Context(), &parentv1.OperatorInstallGrantRequest{Grant: signed})
				if err != nil {
					return err
				}
				return printCredit(c.OutOrStdout(), status)
			})
		},
	}
}

func grantStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how credit stands, and what the next grant has to name",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(func(operator parentv1.OperatorClient) error {
				status, err := operator.DescribeGrant(c.Context(), &parentv1.OperatorDescribeGrantRequest{})
				if err != nil {
					return err
				}
				return printCredit(c.OutOrStdout(), status)
			})
		},
	}
}

// printCredit writes the status, and the flags of a grant that would be signed now.
func printCredit(out io.Writer, s *parentv1.OperatorGrantStatus) error {
	if s.GetAnchorError() != "" {
		fmt.Fprintf(out, "anchor        none: %s\n", s.GetAnchorError())
	} else {
		fmt.Fprintf(out, "anchor        sha256:%x (tier %s)\ncounter       %d\n", s.GetAnchor(), s.GetAnchorTier(), s.GetCounter())
		if s.GetAnchorTier() == journal.TierSoftware {
			fmt.Fprintln(out, "              tier software: whoever has the files of this host can spend again")
		}
	}
	if len(s.GetGrant()) > 0 {
		g, _, err := lease.Read(s.GetGrant())
		if err != nil {
			return fmt.Errorf("the enclave's grant: %w", err)
		}
		printGrant(out, g)
		fmt.Fprintf(out, "taken         %s, %s left in what is open, %s in those to come\n", counted(int(s.GetTaken()), "lease"), amount(s.GetOpen(), g.Unit), amount(s.GetLeft(), g.Unit))
	}
	version := s.GetHighestVersion()
	for _, signed := range s.GetAhead() {
		g, _, err := lease.Read(signed)
		if err != nil {
			return fmt.Errorf("a grant of the enclave's that waits: %w", err)
		}
		version = max(version, g.Version)
		fmt.Fprintf(out, "waits         version %d, %s, from %s until %s\n", g.Version, amount(g.Cap, g.Unit), clock(g.NotBefore), clock(g.NotAfter))
	}
	if s.GetClosed() != "" {
		fmt.Fprintf(out, "closed        %s\n", s.GetClosed())
	}
	if s.GetAnchorError() == "" {
		fmt.Fprintf(out, "next          raypher grant sign --version %d --anchor sha256:%x --baseline %d --cap ... --key ... -o ...\n", version+1, s.GetAnchor(), s.GetCounter())
	}
	return nil
}
