package doctor

import (
	"strings"
	"time"
)

// checkFleet says how the host stands with its controller; nothing where none is configured, or raypherd does not say.
func checkFleet(f *Findings) []Check {
	s := f.Daemon.Fleet
	if s == nil || s.GetController() == "" {
		return nil
	}
	c := Check{Name: "controller", Status: OK, Found: s.GetController()}
	moment := func(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
	if s.GetResult() == "" {
		c.Status, c.Found = Warn, c.Found+", this enclave is not attested"
		c.Consequence = "it gets no secrets, leases or ceilings; under a ceiling with require_attestation nothing is granted"
	} else {
		c.Found += ", attested until " + moment(s.GetResultExpiresUnix())
	}
	why := s.GetError()
	if why == "" {
		why = s.GetPoliciesError()
	}
	if why == "" {
		return []Check{c}
	}
	c.Status = Warn
	c.Found += ", not reached: " + strings.Join(strings.Fields(why), " ")
	if c.Consequence == "" {
		c.Consequence = "what is kept serves until its end"
		if until := s.GetPoliciesUntilUnix(); until != 0 {
			c.Consequence += ": policies until " + moment(until)
		}
	}
	c.Fix = "is the controller running, can this host reach it, and do controller_key and controller_result_key in ibev.conf name its keys? raypher status shows more"
	return []Check{c}
}
