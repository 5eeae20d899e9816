package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/manifest"
	"github.com/raypher/raypher/manifest/file"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/policy"
)

func manifestCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "manifest",
		Short: "Make, sign and check the manifest of a skill",
		Long: `A manifest (clawmanifest.json, in the folder of a skill) states what the skill may do and which files it consists of, signed by
its author. FOLDER below is the skill's folder or the manifest in it; without it, the current one.`,
	}
	c.AddCommand(manifestKeygenCommand(), manifestInitCommand(), manifestSignCommand(), manifestVerifyCommand(), manifestShowCommand())
	return c
}

// skill is a manifest and where it lies.
type skill struct {
	file, root string
	*manifest.Manifest
}

// locateManifest turns the argument of a command, a folder or a manifest in it, into the manifest's path.
func locateManifest(args []string) (string, error) {
	path := "."
	if len(args) == 1 {
		path = args[0]
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("manifest: %w: name the skill's folder, or the manifest in it", err)
	}
	return filepath.Abs(file.In(path))
}

func readSkill(args []string) (*skill, error) {
	file, err := locateManifest(args)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("manifest: %w: raypher manifest init makes one", err)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	m, err := manifest.ParseFile(file, text)
	if err != nil {
		return nil, err
	}
	return &skill{file, filepath.Dir(file), m}, nil
}

func (s *skill) write() error {
	text, err := s.Encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file, text, 0o644); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return nil
}

func manifestKeygenCommand() *cobra.Command {
	var out string
	var asJSON bool
	c := &cobra.Command{
		Use:     "keygen NAME",
		Short:   "Make a key pair to sign manifests with: NAME.key stays with you, NAME.pub goes to those who trust you",
		Args:    cobra.ExactArgs(1),
		Example: "  raypher manifest keygen acme",
		RunE: func(c *cobra.Command, args []string) error {
			public, err := manifest.GenerateKey(out, args[0])
			if err != nil {
				return err
			}
			private, trusted := filepath.Join(out, args[0]+".key"), filepath.Join(out, args[0]+".pub")
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{"key": private, "public": trusted, "key_id": manifest.KeyID(public)})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s  signs; keep it to yourself\n%s  goes into %s of every host that trusts you\nkey id %s\n", private, trusted, instance.Signers, manifest.KeyID(public))
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", ".", "folder to write to")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func manifestInitCommand() *cobra.Command {
	var id, version string
	c := &cobra.Command{
		Use:   "init [FOLDER]",
		Short: "Write a manifest that asks to read its own folder, to fill in and sign",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			file, err := locateManifest(args)
			if err != nil {
				return err
			}
			if id == "" {
				id = filepath.Base(filepath.Dir(file))
			}
			s := &skill{file, filepath.Dir(file), &manifest.Manifest{SkillID: id, Version: version, Asks: manifest.Permissions{
				Filesystem: &manifest.Filesystem{Read: []string{"./**"}, Write: []string{}},
				Network:    &manifest.Network{Egress: []string{}},
				Exec:       []string{},
			}}}
			text, err := s.Encode()
			if err != nil {
				return err
			}
			if _, err := manifest.ParseFile(file, text); err != nil {
				return fmt.Errorf("%w\nname it with --id and --version", err)
			}
			if _, err := os.Lstat(file); err == nil {
				return fmt.Errorf("manifest: %s exists: edit it, or remove it first", file)
			}
			if err := s.write(); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s\nadd what the skill needs to permissions, then: raypher manifest sign --key NAME.key %s\n", file, s.root)
			return nil
		},
	}
	c.Flags().StringVar(&id, "id", "", "skill_id (default: the folder's name)")
	c.Flags().StringVar(&version, "version", "0.1.0", "version of the skill")
	return c
}

func manifestSignCommand() *cobra.Command {
	var key, as string
	c := &cobra.Command{
		Use:   "sign --key FILE [FOLDER]",
		Short: "Hash the skill's files and sign the manifest",
		Long: `Hash every file in the skill's folder that the skill may not write itself, and sign the manifest. The digests that the manifest had
before are replaced; each difference is printed, so that you see what you sign.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := readSkill(args)
			if err != nil {
				return err
			}
			private, err := manifest.ReadPrivateKey(key)
			if err != nil {
				return err
			}
			if as == "" {
				as = strings.TrimSuffix(filepath.Base(key), ".key")
			}
			before := s.Hashes
			if err := s.HashFiles(s.root); err != nil {
				return err
			}
			printHashChanges(c.OutOrStdout(), before, s.Hashes)
			if err := s.Sign(private, as); err != nil {
				return err
			}
			if err := s.write(); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "signed %s %s with %d files as %s\n", s.SkillID, s.Version, len(s.Hashes), as)
			return nil
		},
	}
	c.Flags().StringVar(&key, "key", "", "the private key, as raypher manifest keygen writes it")
	c.Flags().StringVar(&as, "as", "", "name of the signer, or its key id (default: the key file's name without .key)")
	if err := c.MarkFlagRequired("key"); err != nil {
		panic(err) // the flag stands two lines above
	}
	return c
}

func printHashChanges(out io.Writer, before, after map[string]string) {
	for _, path := range slices.Sorted(maps.Keys(after)) {
		switch was, had := before[path]; {
		case !had:
			fmt.Fprintf(out, "added    %q\n", path)
		case was != after[path]:
			fmt.Fprintf(out, "changed  %q\n", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if _, has := after[path]; !has {
			fmt.Fprintf(out, "removed  %q\n", path)
		}
	}
}

// manifestResult is what verify prints with --json.
type manifestResult struct {
	Manifest string          `json:"manifest"`
	SkillID  string          `json:"skill_id,omitempty"`
	Version  string          `json:"version,omitempty"`
	SignedBy string          `json:"signed_by,omitempty"`
	OK       bool            `json:"ok"`
	Problems []string        `json:"problems,omitempty"`
	Beyond   []policy.Beyond `json:"beyond_policy,omitempty"`
}

func manifestVerifyCommand() *cobra.Command {
	var signers, policyFile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify [FOLDER]",
		Short: "Check signature and files of a skill, and whether a policy grants what it asks for",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := readSkill(args)
			if err != nil && !asJSON {
				return err
			}
			result := manifestResult{}
			if err != nil {
				result.Problems = []string{err.Error()}
			} else {
				result = s.verify(signers, policyFile)
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), result); err != nil {
					return err
				}
			} else {
				result.print(c.OutOrStdout())
			}
			if !result.OK {
				return &exitError{code: 1}
			}
			return nil
		},
	}
	c.Flags().StringVar(&signers, "signers", instance.Signers, "folder with <name>.pub of each trusted author")
	c.Flags().StringVar(&policyFile, "policy", "", "also check that this policy grants what the skill asks for")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// verify does every check, so that one run shows everything that is wrong.
func (s *skill) verify(signersFolder, policyFile string) manifestResult {
	r := manifestResult{Manifest: s.file, SkillID: s.SkillID, Version: s.Version}
	note := func(err error) {
		if err != nil {
			r.Problems = append(r.Problems, err.Error())
		}
	}
	signers, err := manifest.LoadSigners(signersFolder)
	if err == nil {
		err = s.Manifest.Verify(signers)
	}
	note(err)
	if s.Signature != nil {
		r.SignedBy = s.Signature.SignedBy
	}
	note(s.VerifyFiles(s.root))
	if policyFile != "" {
		err := s.withinPolicy(policyFile)
		var excess *policy.Excess
		if errors.As(err, &excess) {
			r.Beyond = excess.Items
		}
		note(err)
	}
	r.OK = len(r.Problems) == 0
	return r
}

func (s *skill) withinPolicy(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	outer, err := policy.Parse(file, text)
	if err != nil {
		return err
	}
	inner, err := s.Permissions(s.root)
	if err != nil {
		return err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return fmt.Errorf("policy: expand ~: %w", err)
	}
	if outer, err = outer.Expand(home); err != nil {
		return err
	}
	if inner, err = inner.Expand(home); err != nil {
		return err
	}
	_, err = policy.Narrow(outer, inner)
	return err
}

func (r manifestResult) print(out io.Writer) {
	if r.OK {
		fmt.Fprintf(out, "ok  %s %s, signed by %s, every file as signed\n", r.SkillID, r.Version, r.SignedBy)
		return
	}
	fmt.Fprintf(out, "refused  %s\n", r.Manifest)
	for _, p := range r.Problems {
		fmt.Fprintf(out, "  %s\n", strings.ReplaceAll(p, "\n", "\n  "))
	}
}

func manifestShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show [FOLDER]",
		Short: "Show what a skill asks for, as the policy that it becomes",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := readSkill(args)
			if err != nil {
				return err
			}
			p, err := s.Permissions(s.root)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]any{"manifest": s.Manifest, "permissions": p})
			}
			s.show(c.OutOrStdout(), p)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (s *skill) show(out io.Writer, p *policy.Policy) {
	by := "nobody (not signed)"
	if s.Signature != nil {
		by = s.Signature.SignedBy + " (not checked: raypher manifest verify)"
	}
	fmt.Fprintf(out, "skill      %s %s\nfolder     %s\nsigned by  %s\nfiles      %d\n", s.SkillID, s.Version, s.root, by, len(s.Hashes))
	for _, list := range []struct {
		name  string
		items []string
	}{{"reads", p.Filesystem.Read}, {"writes", p.Filesystem.Write}, {"executes", p.Filesystem.Exec}, {"reaches", p.Network.Egress}} {
		if len(list.items) == 0 {
			fmt.Fprintf(out, "%-10s nothing\n", list.name)
		}
		for i, item := range list.items {
			if i > 0 {
				list.name = ""
			}
			fmt.Fprintf(out, "%-10s %q\n", list.name, item)
		}
	}
}

func printJSON(out io.Writer, value any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(value)
}
