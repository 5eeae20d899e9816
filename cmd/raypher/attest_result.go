package main

import (
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// fleetLines are the lines of a status about the controller, each a name, a tab, and what is to be said; none without a controller.
func fleetLines(s *parentv1.OperatorFleetStatus, now time.Time) (lines []string) {
	if s.GetController() == "" {
		return nil
	}
	say := func(name, format string, args ...any) {
		lines = append(lines, name+"\t"+evidence.Printable(fmt.Sprintf(format, args...)))
	}
	say("controller", "%s, %s", s.GetController(), reached(s))
	if s.GetResult() == "" {
		say("attestation", "no result in force: a ceiling that requires one grants nothing")
	} else {
		say("attestation", "result in force until %s", moment(s.GetResultExpiresUnix(), now))
	}
	if s.GetError() != "" {
		say("last attempt", "%s", plainly(s.GetError()))
	}
	if len(s.GetSecrets()) > 0 {
		say("secrets", "%s", strings.Join(s.GetSecrets(), " "))
	}
	for _, p := range s.GetPolicies() {
		share := ""
		if p.GetCanaryPercent() < 100 {
			share = fmt.Sprintf(", for %d %% of agents", p.GetCanaryPercent())
		}
		say("policy", "fleet:%s version %d%s", p.GetName(), p.GetVersion(), share)
	}
	if s.GetPoliciesUntilUnix() != 0 {
		say("policies", "agents begin with them until %s, with or without the controller", moment(s.GetPoliciesUntilUnix(), now))
	}
	if s.GetPoliciesError() != "" {
		say("policies", "last attempt: %s", plainly(s.GetPoliciesError()))
	}
	return lines
}

func reached(s *parentv1.OperatorFleetStatus) string {
	if s.GetExchangedUnix() == 0 {
		return "not reached by the enclave since it started"
	}
	return "last reached by the enclave at " + time.Unix(s.GetExchangedUnix(), 0).UTC().Format(time.RFC3339)
}

// moment is a time and how far it is away.
func moment(unix int64, now time.Time) string {
	at := time.Unix(unix, 0)
	left := at.Sub(now).Round(time.Second)
	if left < 0 {
		return fmt.Sprintf("%s, %s ago", at.UTC().Format(time.RFC3339), -left)
	}
	return fmt.Sprintf("%s, in %s", at.UTC().Format(time.RFC3339), left)
}

func attestResultCommand() *cobra.Command {
	var keys []string
	var file string
	var raw bool
	c := &cobra.Command{
		Use:   "result [--key PEM]... [--jwt]",
		Short: "Show the attestation result that is in force on this host",
		Long: `Shows what the controller found of this host's enclave, and until when it says so. With --key the result is verified, as a relying party
does; without it nothing is proven. --jwt prints the result itself, to be sent to one. --file shows a result that came from elsewhere.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			token, err := resultInForce(c, file)
			if err != nil {
				return err
			}
			if raw {
				_, err := fmt.Fprintln(c.OutOrStdout(), token)
				return err
			}
			trusted, err := resultKeys(keys)
			if err != nil {
				return err
			}
			var r *result.Result
			if len(trusted) > 0 {
				r, err = result.Verify(token, trusted, time.Now())
			} else {
				r, err = result.Read(token)
			}
			if err != nil {
				return err
			}
			return printResult(c.OutOrStdout(), r, len(trusted) > 0)
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "public key, PEM, of the controller's results: of its --signing-key (raypher-controller keygen FILE writes FILE.pub); may be repeated")
	c.Flags().StringVar(&file, "file", "", "a result in a file; - is standard input")
	c.Flags().BoolVar(&raw, "jwt", false, "print the JWT")
	return c
}

func resultInForce(c *cobra.Command, file string) (string, error) {
	if file != "" {
		text, err := readBounded(file, result.MaxSize)
		return strings.TrimSpace(string(text)), err
	}
	var s *parentv1.OperatorFleetStatus
	err := withOperator(func(operator parentv1.OperatorClient) (err error) {
		s, err = operator.DescribeFleet(c.Context(), &parentv1.OperatorDescribeFleetRequest{})
		return err
	})
	switch {
	case err != nil:
		return "", err
	case s.GetController() == "":
		return "", errors.New("this host has no controller: the start configuration of its enclave names none")
	case s.GetResult() == "":
		return "", fmt.Errorf("no result is in force; controller %s, %s: %s", s.GetController(), reached(s), evidence.Printable(plainly(s.GetError())))
	}
	return s.GetResult(), nil
}

func resultKeys(files []string) (keys []*ecdsa.PublicKey, err error) {
	for _, name := range files {
		text, err := readBounded(name, 4096)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("--key %s: no PEM block of type \"PUBLIC KEY\": `raypher-controller keygen SIGNING-KEY` on the controller writes SIGNING-KEY.pub", name)
		}
		key, err := journal.ParseKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("--key %s: %w", name, err)
		}
		keys = append(keys, key.Public())
	}
	return keys, nil
}

func printResult(out io.Writer, r *result.Result, verified bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	standing := "not verified: name the controller's key with --key"
	if verified {
		standing = "verified"
	}
	now := time.Now()
	for _, line := range [][2]string{
		{"result", standing}, {"host", r.Subject()}, {"issuer", r.Issuer + ", " + r.Build}, {"tier", r.Tier},
		{"enclave key", "sha256:" + r.Key.String()}, {"epoch", r.Epoch.String()}, {"configuration", hex.EncodeToString(r.Configuration[:])},
		{"measurements", r.Measurements}, {"ceiling", fmt.Sprintf("version %d %s", r.CeilingVersion, r.CeilingHash)},
		{"issued", r.Issued.UTC().Format(time.RFC3339)}, {"expires", moment(r.Expires.Unix(), now)},
	} {
		fmt.Fprintf(table, "%s\t%s\n", line[0], evidence.Printable(line[1]))
	}
	return table.Flush()
}
