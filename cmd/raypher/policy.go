package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/raypher/raypher/manifest"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/policy"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes of the policy commands.
const (
	policyInvalid = 1         // the answer is no
	policyUsage   = codeUsage // the question could not be asked
)

// signatureSuffix is added to a policy's file name for the file with its signature.
const signatureSuffix = ".sig"

func policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Check, explain, compare and sign policies",
		Long: `Check, explain, compare and sign policies. FILE may be - for standard input. Nothing here needs a daemon or rights.

Exit codes: 0 yes, 1 the policy is invalid or the answer is no, 2 wrong usage or a file that cannot be read.`,
	}
	c.AddCommand(policyApplyCommand(), policyCheckCommand(), policyExplainCommand(), policyHashCommand(), policySchemaCommand(), policyIncludeCommand(),
		policyKeygenCommand(), policySignCommand(), policyVerifyCommand(), policyReleaseCommand(), policyDiffCommand(), policyDriftCommand())
	return c
}

func usageError(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{policyUsage, err}
}

// readPolicy reads and parses one file. An error that is no *exitError is of type policy.Errors.
func readPolicy(in io.Reader, file string) (*policy.Policy, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usageError(fmt.Errorf("policy: %w: name a policy file, or - for standard input", err))
		}
		defer f.Close()
		in = f
	} else {
		file = "standard input"
	}
	text, err := io.ReadAll(io.LimitReader(in, policy.MaxSize+1))
	if err != nil {
		return nil, usageError(fmt.Errorf("policy: %w: name a policy file, or - for standard input", err))
	}
	return policy.Parse(file, text)
}

// validPolicy is readPolicy for commands that only go on with a valid policy: it prints what is wrong.
func validPolicy(c *cobra.Command, file string) (*policy.Policy, error) {
	p, err := readPolicy(c.InOrStdin(), file)
	var problems policy.Errors
	if errors.As(err, &problems) {
		printProblems(c.ErrOrStderr(), problems)
		return nil, &exitError{code: policyInvalid}
	}
	return p, err
}

func printProblems(out io.Writer, problems policy.Errors) {
	red, reset := colours(out, "31")
	for _, p := range problems {
		fmt.Fprintf(out, "%s:%d:%d: %s%s%s\n", p.File, p.Line, p.Column, red, p.Message, reset)
		if p.Fix != "" {
			fmt.Fprintf(out, "    %s\n", p.Fix)
		}
	}
}

// colours returns the sequences to start and end a colour: empty where out is no terminal, or NO_COLOR is set (no-color.org).
func colours(out io.Writer, code string) (start, end string) {
	f, isFile := out.(*os.File)
	if !isFile || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return "", ""
	}
	return "\x1b[" + code + "m", "\x1b[0m"
}

// checkResult is what check prints with --json, for each file.
type checkResult struct {
	File     string        `json:"file"`
	OK       bool          `json:"ok"`
	Hash     string        `json:"hash,omitempty"`
	Problems policy.Errors `json:"problems,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`
}

func policyCheckCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check FILE...",
		Short: "Say everything that is wrong with policies, with line, column and fix",
		Example: `  raypher policy check policy.yaml
  raypher policy check --json policies/*.yaml
  generate-policy | raypher policy check -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			results := make([]checkResult, 0, len(files))
			good := true
			for _, file := range files {
				r := checkResult{File: file}
				p, err := readPolicy(c.InOrStdin(), file)
				if err != nil && !errors.As(err, &r.Problems) {
					return err
				}
				if r.OK = err == nil; r.OK {
					r.Hash, r.Warnings = p.HashText(), p.Explain().Warnings
				}
				good = good && r.OK
				results = append(results, r)
			}
			if err := printChecks(c, results, asJSON); err != nil {
				return err
			}
			if !good {
				return &exitError{code: policyInvalid}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printChecks(c *cobra.Command, results []checkResult, asJSON bool) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), results)
	}
	green, reset := colours(c.OutOrStdout(), "32")
	for _, r := range results {
		if !r.OK {
			printProblems(c.ErrOrStderr(), r.Problems)
			continue
		}
		fmt.Fprintf(c.OutOrStdout(), "%sok%s  %s  %s\n", green, reset, r.File, r.Hash)
		if n := len(r.Warnings); n > 0 {
			fmt.Fprintf(c.OutOrStdout(), "    %d to consider: raypher policy explain %s\n", n, r.File)
		}
	}
	return nil
}

func policyExplainCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "explain FILE",
		Short:   "Say in words what a policy grants, refuses and does not govern, and what to think twice about",
		Example: "  raypher policy explain policy.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := validPolicy(c, args[0])
			if err != nil {
				return err
			}
			explanation := p.Explain()
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Policy json.RawMessage `json:"policy"`
					Hash   string          `json:"hash"`
					policy.Explanation
				}{p.Canonical(), p.HashText(), explanation})
			}
			return printExplanation(c.OutOrStdout(), p, explanation)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printExplanation(out io.Writer, p *policy.Policy, e policy.Explanation) error {
	fmt.Fprintf(out, "policy     %s\nnamespace  %s\nmode       %s\nviolation  %s\n\n", p.HashText(), p.Namespace, p.Mode, p.OnViolation)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	before := policy.Line{}
	for _, line := range e.Lines {
		action, says := line.Action, line.Says
		if action == before.Action {
			action = ""
			if says == before.Says {
				says = ""
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", action, says, line.What)
		before = line
	}
	if err := table.Flush(); err != nil {
		return err
	}
	yellow, reset := colours(out, "33")
	for i, warning := range e.Warnings {
		if i == 0 {
			fmt.Fprintf(out, "\nthink twice:\n")
		}
		fmt.Fprintf(out, "  %s%s%s\n", yellow, warning, reset)
	}
	return nil
}

func policyHashCommand() *cobra.Command {
	var asJSON, canonical bool
	c := &cobra.Command{
		Use:   "hash FILE",
		Short: "Print the hash of a policy: SHA-256 of its canonical form",
		Long: `Print the hash of a policy: SHA-256 of its canonical form (RFC 8785 JSON of the policy with defaults filled in and lists sorted).
Comments, order and layout do not change it.`,
		Example: `  raypher policy hash policy.yaml
  raypher policy hash --canonical policy.yaml | sha256sum`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := validPolicy(c, args[0])
			switch {
			case err != nil:
				return err
			case canonical:
				_, err = c.OutOrStdout().Write(p.Canonical())
				return err
			case asJSON:
				return printJSON(c.OutOrStdout(), map[string]string{"file": args[0], "hash": p.HashText()})
			}
			fmt.Fprintln(c.OutOrStdout(), p.HashText())
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&canonical, "canonical", false, "print the canonical form instead of its hash")
	return c
}

func policySchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of policy files, for editors",
		Example: "  raypher policy schema > raypher-policy.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(policy.Schema())
			return err
		},
	}
}

func policyIncludeCommand() *cobra.Command {
	var asJSON bool
	var home string
	c := &cobra.Command{
		Use:   "include INNER OUTER",
		Short: "Say whether everything that INNER grants is granted by OUTER, and list what is not",
		Long: `Say whether everything that INNER grants is granted by OUTER, and list what is not. Patterns are compared by what they match, not by
their text. Deny rules of OUTER count for INNER too, as they do when INNER is narrowed at a launch.`,
		Example: "  raypher policy include agent.yaml ceiling.yaml",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if home == "" {
				var err error
				if home, err = os.UserHomeDir(); err != nil {
					return usageError(fmt.Errorf("%w: give --home", err))
				}
			}
			var expanded [2]*policy.Policy
			for i, file := range args {
				p, err := validPolicy(c, file)
				if err != nil {
					return err
				}
				if expanded[i], err = p.Expand(home); err != nil {
					return usageError(err)
				}
			}
			beyond := policy.Included(expanded[0], expanded[1])
			if err := printBeyond(c.OutOrStdout(), args, beyond, asJSON); err != nil {
				return err
			}
			if len(beyond) > 0 {
				return &exitError{code: policyInvalid}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&home, "home", "", "what ~ stands for (default: your home folder)")
	return c
}

func printBeyond(out io.Writer, files []string, beyond []policy.Beyond, asJSON bool) error {
	if asJSON {
		return printJSON(out, map[string]any{"included": len(beyond) == 0, "beyond": append([]policy.Beyond{}, beyond...)})
	}
	if len(beyond) == 0 {
		fmt.Fprintf(out, "included  %s grants nothing that %s does not grant\n", files[0], files[1])
		return nil
	}
	fmt.Fprintf(out, "beyond  %s asks for more than %s grants:\n", files[0], files[1])
	for _, b := range beyond {
		fmt.Fprintf(out, "  %s\n", b)
	}
	return nil
}

func policyKeygenCommand() *cobra.Command {
	var out string
	var asJSON bool
	c := &cobra.Command{
		Use:     "keygen NAME",
		Short:   "Make a key pair to sign policies with: NAME.key stays with you, NAME.pub goes to those who trust you",
		Example: "  raypher policy keygen ops",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			public, err := manifest.GenerateKey(out, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{"name": args[0], "folder": out, "key_id": manifest.KeyID(public)})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s.key  signs; keep it to yourself\n%s.pub  goes to those who check your signatures\nkey id %s\n", args[0], args[0], manifest.KeyID(public))
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", ".", "folder to write to")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func policySignCommand() *cobra.Command {
	var key, as, out string
	var asJSON bool
	c := &cobra.Command{
		Use:   "sign --key FILE FILE",
		Short: "Sign the hash of a policy, into FILE.sig beside it",
		Example: `  raypher policy keygen ops
  raypher policy sign --key ops.key policy.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := validPolicy(c, args[0])
			if err != nil {
				return err
			}
			if key == "" {
				return usageError(errors.New("policy sign: give --key, the private key that raypher policy keygen makes"))
			}
			private, err := manifest.ReadPrivateKey(key)
			if err != nil {
				return usageError(err)
			}
			if as == "" {
				as = strings.TrimSuffix(key[strings.LastIndexByte(key, '/')+1:], ".key")
			}
			if out == "" {
				if args[0] == "-" {
					return usageError(errors.New("policy from standard input: say with --out where the signature goes"))
				}
				out = args[0] + signatureSuffix
			}
			signature := p.Sign(private, as)
			text, err := json.MarshalIndent(signature, "", "  ")
			if err != nil {
				return err
			}
			if err := os.WriteFile(out, append(text, '\n'), 0o644); err != nil {
				return usageError(fmt.Errorf("signature: %w", err))
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), signature)
			}
			fmt.Fprintf(c.OutOrStdout(), "signed %s as %s: %s\n", signature.PolicyHash, as, out)
			return nil
		},
	}
	c.Flags().StringVar(&key, "key", "", "the private key, as raypher policy keygen writes it")
	c.Flags().StringVar(&as, "as", "", "name of the signer (default: the key file's name without .key)")
	c.Flags().StringVar(&out, "out", "", "where to write the signature (default: FILE.sig)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func policyVerifyCommand() *cobra.Command {
	var signers, signatureFile string
	var asJSON bool
	c := &cobra.Command{
		Use:     "verify FILE",
		Short:   "Check that a trusted signer signed exactly this policy",
		Example: "  raypher policy verify --signers /etc/raypher/signers policy.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := validPolicy(c, args[0])
			if err != nil {
				return err
			}
			if signatureFile == "" {
				signatureFile = args[0] + signatureSuffix
			}
			name, err := verifyPolicy(p, signatureFile, signers)
			if asJSON {
				result := map[string]any{"ok": err == nil, "hash": p.HashText(), "signed_by": name}
				if err != nil {
					result["problem"] = err.Error()
				}
				if printErr := printJSON(c.OutOrStdout(), result); printErr != nil {
					return printErr
				}
				if err != nil {
					return &exitError{code: policyInvalid}
				}
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "ok  %s, signed by %s\n", p.HashText(), name)
			return nil
		},
	}
	c.Flags().StringVar(&signers, "signers", instance.Signers, "folder with <name>.pub of each trusted signer")
	c.Flags().StringVar(&signatureFile, "signature", "", "file with the signature (default: FILE.sig)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// verifyPolicy checks the signature in file against the trusted signer that it names.
func verifyPolicy(p *policy.Policy, file, folder string) (name string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("signature: %w: raypher policy sign makes it", err)
	}
	signature, err := policy.ParseSignature(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w: raypher policy sign writes such a file", file, err)
	}
	signers, err := manifest.LoadSigners(folder)
	if err != nil {
		return "", err
	}
	for _, signer := range signers {
		if signer.Name == signature.SignedBy || signer.KeyID() == signature.SignedBy {
			err := signature.Verify(p, signer.Key)
			switch {
			case errors.Is(err, policy.ErrPolicyChanged):
				err = fmt.Errorf("%w: get the one that %s signed, or have this one signed with raypher policy sign", err, signer.Name)
			case err != nil:
				err = fmt.Errorf("%s: %w with the key of %s: have the policy signed again", file, err, signer.Name)
			}
			return signer.Name, err
		}
	}
	return "", fmt.Errorf("%s: signer %q is not trusted: no such .pub in %s: put the key of a signer that you trust there", file, signature.SignedBy, folder)
}
