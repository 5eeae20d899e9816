package floor

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/raypher/raypher/policy"
)

// wildcards start what is no plain path in a pattern (package policy).
const wildcards = `*?{}[]\`

// maxLinks is how many symbolic links one path may lead through, as in the kernel (MAXSYMLINKS, include/linux/namei.h).
const maxLinks = 40

// Resolved returns the permit with a second pattern beside each one whose literal part leads through symbolic links: the
// guard decides on the object that a path leads to, and on a host where /bin is a link to usr/bin, a rule on /bin/sh would
// otherwise match nothing. Links are followed once, here: what they lead to later changes nothing.
//
// A link that the permit itself lets the agent replace is not followed, or an agent could point it elsewhere for the next
// run; deny and require_approval follow every link.
func Resolved(permit *policy.Policy) *policy.Policy { return ResolvedWithin(permit, permit) }

// ResolvedWithin is Resolved for a permit that an agent gets while it runs: what the one of its launch lets it replace, it may
// have replaced by now.
func ResolvedWithin(permit, launch *policy.Policy) *policy.Policy {
	rules := launch.FileRules()
	agentMayReplace := func(link string) bool {
		return rules.Governed() && rules.Decide(link, policy.Write).Verdict == policy.VerdictAllow
	}
	never := func(string) bool { return false }
	resolved := *permit
	if f := permit.Filesystem; f != nil {
		resolved.Filesystem = &policy.Filesystem{
			Read:            withAliases(f.Read, agentMayReplace),
			Write:           withAliases(f.Write, agentMayReplace),
			Exec:            withAliases(f.Exec, agentMayReplace),
			Deny:            withAliases(f.Deny, never),
			RequireApproval: withAliases(f.RequireApproval, never),
			Static:          f.Static,
			Hashes:          hashesWithAliases(f.Hashes),
		}
	}
	if n := permit.Network; n != nil && len(n.Unix) > 0 {
		network := *n
		network.Unix = withAliases(n.Unix, agentMayReplace)
		resolved.Network = &network
	}
	return &resolved
}

func withAliases(patterns []string, refuse func(link string) bool) []string {
	all := slices.Clone(patterns)
	for _, pattern := range patterns {
		literal, rest := splitPattern(pattern)
		if real, ok := followLinks(literal, refuse); ok && real != literal {
			alias := strings.TrimSuffix(quote(real), "/") + rest
			if alias == "" {
				alias = "/"
			}
			if !slices.Contains(all, alias) {
				all = append(all, alias)
			}
		}
	}
	return all
}

// hashesWithAliases fixes the content of what the paths lead to as well. Their patterns have no wildcards but what quotes them, and
// what is quoted is not followed.
func hashesWithAliases(hashes map[string]string) map[string]string {
	all := maps.Clone(hashes)
	for pattern, sum := range hashes {
		real, ok := followLinks(pattern, func(string) bool { return false })
		if _, known := all[quote(real)]; ok && !known {
			all[quote(real)] = sum
		}
	}
	return all
}

// splitPattern parts a pattern into the folder or file above all of its wildcards and the rest, which is empty or starts with
// a slash.
func splitPattern(pattern string) (literal, rest string) {
	at := strings.IndexAny(pattern, wildcards)
	if at < 0 {
		return pattern, ""
	}
	slash := strings.LastIndexByte(pattern[:at], '/')
	if slash <= 0 {
		return "/", pattern
	}
	return pattern[:slash], pattern[slash:]
}

// quote makes a path into a pattern that matches it alone.
func quote(path string) string {
	if !strings.ContainsAny(path, wildcards+",") {
		return path
	}
	var b strings.Builder
	for _, r := range path {
		if strings.ContainsRune(wildcards+",", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// followLinks returns where path leads. What does not exist stays as it is. It is false when a link must not be followed or
// there are too many.
func followLinks(path string, refuse func(link string) bool) (string, bool) {
	at := "/"
	left := strings.Split(path, "/")
	for links := 0; len(left) > 0; {
		name := left[0]
		left = left[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		target, err := os.Readlink(next)
		if err != nil || strings.HasPrefix(next, "/proc/") {
			at = next // no link, or one that means something else for each process
			continue
		}
		if links++; links > maxLinks || refuse(next) {
			return "", false
		}
		left = append(strings.Split(target, "/"), left...)
		if filepath.IsAbs(target) {
			at = "/"
		}
	}
	return at, true
}
