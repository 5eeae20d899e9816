package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/draft"
	"github.com/raypher/raypher/manifest"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

func policyDiffCommand() *cobra.Command {
	var asJSON bool
	var home string
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "Say what each of two policies grants that the other does not",
		Long: `Say what each of two policies grants that the other does not. Patterns are compared by what they match, not by their text, and what
a policy denies or asks a person about counts as not granted. A clawmanifest.json, or the folder of a skill, can stand for either.

Exit codes: 0 they grant the same, 1 they do not, 2 wrong usage or a file that cannot be read.`,
		Example: `  raypher policy diff policy.yaml raypher-learned/policy.yaml
  raypher policy diff weather policy.yaml`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			home, err := homeOf(home)
			if err != nil {
				return err
			}
			var both [2]*policy.Policy
			for i, file := range args {
				p, err := policyOrManifest(c, file)
				if err != nil {
					return err
				}
				if both[i], err = p.Expand(home); err != nil {
					return usageError(err)
				}
			}
			only := [2][]policy.Beyond{policy.Difference(both[0], both[1]), policy.Difference(both[1], both[0])}
			if err := printDifference(c.OutOrStdout(), args, only, asJSON); err != nil {
				return err
			}
			if len(only[0])+len(only[1]) > 0 {
				return &exitError{code: policyInvalid}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&home, "home", "", "what ~ stands for (default: your home folder)")
	return c
}

// homeOf is what ~ stands for.
func homeOf(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usageError(fmt.Errorf("%w: give --home", err))
	}
	return home, nil
}

// policyOrManifest reads a policy, or the permissions of a manifest as the policy that they become.
func policyOrManifest(c *cobra.Command, file string) (*policy.Policy, error) {
	if info, err := os.Stat(file); filepath.Base(file) != manifest.FileName && (err != nil || !info.IsDir()) {
		return validPolicy(c, file)
	}
	s, err := readSkill([]string{file})
	if err != nil {
		return nil, usageError(err)
	}
	p, err := s.Permissions(s.root)
	if err != nil {
		return nil, usageError(err)
	}
	return p, nil
}

func printDifference(out io.Writer, files []string, only [2][]policy.Beyond, asJSON bool) error {
	if asJSON {
		return printJSON(out, map[string]any{
			"same": len(only[0])+len(only[1]) == 0, "a": files[0], "b": files[1],
			"only_a": append([]policy.Beyond{}, only[0]...), "only_b": append([]policy.Beyond{}, only[1]...),
		})
	}
	if len(only[0])+len(only[1]) == 0 {
		fmt.Fprintf(out, "same  %s and %s grant the same\n", files[0], files[1])
		return nil
	}
	for i, items := range only {
		if len(items) == 0 {
			fmt.Fprintf(out, "%s grants nothing that %s does not\n", files[i], files[1-i])
			continue
		}
		fmt.Fprintf(out, "only %s grants:\n", files[i])
		for _, item := range items {
			fmt.Fprintf(out, "  %s\n", terminal(item.String()))
		}
	}
	return nil
}

func policyDriftCommand() *cobra.Command {
	var asJSON bool
	var home, manifestFile, policyFile string
	c := &cobra.Command{
		Use:   "drift (--manifest SKILL | --policy FILE) TRACE...",
		Short: "Say what runs did beyond a manifest or policy, and what of it no run used",
		Long: `Say what runs did beyond a manifest or policy, as the narrowest rules for it, and which of its rules no run used. TRACE is a trace of
raypher learn, or the folder that it wrote.

Exit codes: 0 the runs stayed within, 1 they did not, 2 wrong usage or a file that cannot be read, 3 they stayed within as far as
their traces go, and those are not complete.`,
		Example: `  raypher learn --out today -- openclaw agent --local -m "weather?"
  raypher policy drift --manifest skills/weather today`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if (manifestFile == "") == (policyFile == "") {
				return usageError(errors.New("policy drift: give one of --manifest and --policy"))
			}
			p, err := policyOrManifest(c, manifestFile+policyFile)
			if err != nil {
				return err
			}
			var traces []*trace.Trace
			for _, path := range args {
				t, err := readTrace(path)
				if err != nil {
					return usageError(err)
				}
				traces = append(traces, t)
			}
			all := trace.Merge(traces...)
			if home == "" && filepath.IsAbs(all.Home) {
				home = all.Home // that of the runs
			}
			if home, err = homeOf(home); err != nil {
				return err
			}
			d, err := draft.Compare(p, home, all)
			if err != nil {
				return usageError(err)
			}
			return printDrift(c.OutOrStdout(), d, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&manifestFile, "manifest", "", "clawmanifest.json, or the folder of the skill")
	c.Flags().StringVar(&policyFile, "policy", "", "policy file")
	c.Flags().StringVar(&home, "home", "", "what ~ stands for (default: the home of the runs)")
	return c
}

func printDrift(out io.Writer, d *draft.Drift, asJSON bool) error {
	if asJSON {
		if err := printJSON(out, d); err != nil {
			return err
		}
	} else {
		for _, line := range d.Say() {
			fmt.Fprintln(out, terminal(line))
		}
		if d.Lost != "" {
			fmt.Fprintf(out, "lost    %s\n", terminal(d.Lost))
		}
		if len(d.Beyond) == 0 {
			fmt.Fprintln(out, "within  the runs did nothing that is not granted")
		}
	}
	switch {
	case len(d.Beyond) > 0:
		return &exitError{code: policyInvalid}
	case d.Lost != "":
		return &exitError{code: codeIncomplete}
	}
	return nil
}
