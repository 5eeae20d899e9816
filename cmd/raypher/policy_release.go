package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/release"
)

// releaseSuffix ends the name of a file with a released policy.
const releaseSuffix = ".release"

func policyReleaseCommand() *cobra.Command {
	var keyFile, out string
	var until time.Duration
	var asJSON bool
	r := &release.Release{}
	c := &cobra.Command{
		Use:   "release --key FILE --name NAME --version N FILE",
		Short: "Sign one version of a named policy with an operator key, for the hosts of a fleet",
		Long: `Sign one version of a named policy with an operator key, for the hosts of a fleet: a controller hands it out, and hosts
check the signature themselves. Versions of a name only go upwards.`,
		Example: `  raypher policy release --key operator.key --name coder --version 3 policy.yaml
  raypher fleet release policy --hosts 'build-*' --canary 10 policy.release`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			parsed, err := validPolicy(c, args[0])
			if err != nil {
				return err
			}
			if out == "" {
				if args[0] == "-" {
					return usageError(errors.New("policy from standard input: say with --out where the release goes"))
				}
				out = strings.TrimSuffix(args[0], ".yaml") + releaseSuffix
			}
			if until < 0 {
				return usageError(fmt.Errorf("--for %s: use a duration from 1s, or 0 for no end", until))
			}
			r.Policy = parsed
			if until != 0 {
				r.NotAfter = time.Now().Add(until).Truncate(time.Second)
			}
			file, err := signRelease(r, keyFile)
			if err != nil {
				return usageError(err)
			}
			if err := os.WriteFile(out, file, 0o644); err != nil {
				return usageError(err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"file": out, "name": r.Name, "version": r.Version, "policy_hash": parsed.HashText()})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s version %d, policy %s\n", out, r.Name, r.Version, parsed.HashText())
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&keyFile, "key", "", "operator key, as raypher ceiling keygen makes it")
	f.StringVar(&r.Name, "name", "", "what the policy is called in the fleet")
	f.Uint64Var(&r.Version, "version", 0, "larger than that of the last release of this name")
	f.DurationVar(&until, "for", 0, "how long agents may be started with it; 0: without end")
	f.StringVarP(&out, "out", "o", "", "release to write; FILE without .yaml and with "+releaseSuffix+" by default")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	for _, name := range []string{"key", "name", "version"} {
		c.MarkFlagRequired(name)
	}
	return c
}

func signRelease(r *release.Release, keyFile string) ([]byte, error) {
	text, err := readBounded(keyFile, 64<<10)
	if err != nil {
		return nil, err
	}
	key, err := ceiling.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	return release.Sign(r, key)
}
