package ceiling

import (
	"fmt"
	"strings"

	"github.com/raypher/raypher/internal/strictyaml"
)

// found is a value beyond its bounds, and where it stands in the YAML form.
type found struct {
	at    strictyaml.Place
	fault *strictyaml.Fault
}

// faults are all values beyond their bounds, of a bundle or of a source.
func (c *Ceiling) faults() (all []found) {
	report := func(at strictyaml.Place, fix, format string, args ...any) {
		all = append(all, found{at, strictyaml.Faultf(fix, format, args...)})
	}
	if c.Version == 0 {
		report("version", "write a number from 1, larger than the last one", "no version")
	}
	if c.TrustDomain == "" || len(c.TrustDomain) > MaxText {
		report("trust_domain", fmt.Sprintf("write 1 to %d bytes, as in the enclave's configuration", MaxText), "%d bytes", len(c.TrustDomain))
	}
	if len(c.Grants) == 0 || len(c.Grants) > MaxGrants {
		report("grants", "write one grant for each group of agents", "%d grants, from 1 to %d are possible", len(c.Grants), MaxGrants)
	}
	owners := map[string]bool{}
	for i, g := range c.Grants {
		at := strictyaml.Place("grants").Item(i)
		g.faults(func(key strictyaml.Place, fix, format string, args ...any) { report(at+"."+key, fix, format, args...) })
		if g.OwnKey {
			if owners[g.Namespace] = true; len(owners) == MaxOwnKeys+1 {
				report(at+".own_key", "let some share the enclave's key", "a key of its own for one namespace more, at most %d have one", MaxOwnKeys)
			}
		}
	}
	return all
}

func (g *Grant) faults(report func(key strictyaml.Place, fix, format string, args ...any)) {
	const every = `"*" matches every one`
	if g.Namespace == "" || len(g.Namespace) > MaxText {
		report("namespace", every, "%d bytes, from 1 to %d are possible", len(g.Namespace), MaxText)
	}
	if len(g.Agents) == 0 || len(g.Agents) > MaxPatterns {
		report("agents", every, "%d patterns, from 1 to %d are possible", len(g.Agents), MaxPatterns)
	}
	texts := func(key strictyaml.Place, list []string) {
		for i, text := range list {
			if text == "" || len(text) > MaxText {
				report(key.Item(i), "", "%d bytes, from 1 to %d are possible", len(text), MaxText)
			}
		}
	}
	texts("agents", g.Agents)
	texts("users", g.Users)
	if n := len(g.UIDs) + len(g.Users); n > MaxUsers {
		report("users", "use several grants", "%d uids and users, at most %d", n, MaxUsers)
	}
	if len(g.Binaries) > MaxBinaries {
		report("binaries", "use several grants", "%d, at most %d", len(g.Binaries), MaxBinaries)
	}
	if g.MaxTTLSeconds > MaxTTL {
		report("max_ttl_seconds", "leave it out for what the enclave is configured for", "%d, at most %d", g.MaxTTLSeconds, MaxTTL)
	}
	if g.OwnKey && strings.ContainsAny(g.Namespace, "*?") {
		report("own_key", "give each namespace with a key of its own a grant that names it", "namespace %q is a pattern", g.Namespace)
	}
	if g.Permit == nil {
		report("permit", "write a policy under it", "missing")
	}
}
