package launch

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/parent/warden"
	"github.com/raypher/raypher/policy"
)

// ready is everything that follows from the terms of a grant, before anything of it is taken.
type ready struct {
	terms  attend.Terms
	permit *policy.Policy // resolved
	limits floor.Options
	plan   *floor.Plan
	filter floor.Program
}

// bind waits for what is granted, and makes ready for it. It begins with what raypherd expects to be granted, while the enclave
// decides: that it was right is the rule, and then nothing is left to do.
func (r *runner) bind() error {
	var expected *ready
	for {
		kind, body, err := r.hear()
		switch {
		case err != nil:
			return err
		case kind == warden.Expected:
			var terms attend.Terms
			if json.Unmarshal(body, &terms) == nil {
				expected, _ = r.prepare(terms) // why not is said of what is granted
			}
			continue
		case kind != warden.Granted:
			return fmt.Errorf("the warden sent %q instead of %q", kind, warden.Granted)
		}
		r.granted = &attend.Granted{}
		if err := json.Unmarshal(body, r.granted); err != nil {
			return fmt.Errorf("read the grant: %w", err)
		}
		if expected != nil && expected.terms.Equal(&r.granted.Terms) {
			r.ready = expected
			return nil
		}
		r.ready, err = r.prepare(r.granted.Terms)
		return err
	}
}

// prepare makes ready for terms. It takes nothing and gives up nothing.
func (r *runner) prepare(terms attend.Terms) (*ready, error) {
	permit, err := policy.ParseCanonical(terms.Permit)
	if err != nil {
		return nil, fmt.Errorf("read the permit: %w", err)
	}
	n := &ready{terms: terms, permit: floor.Resolved(permit), limits: r.limits}
	n.limits.Closed = slices.Concat(r.limits.Closed, r.limits.Mounts.Everywhere(terms.ClosedPaths))
	n.limits.FilesHeld = terms.FilesHeld
	slices.Sort(n.limits.Closed)
	n.limits.Closed = slices.Compact(n.limits.Closed)
	if err := r.program.granted(n.permit); err != nil {
		return nil, &Failure{Code: CodeNotExecutable, Err: err}
	}
	if n.plan, err = floor.Compile(n.permit, n.limits); err != nil {
		return nil, err
	}
	n.plan.Notes = append(n.plan.Notes, r.ownRules(n.permit)...)
	n.filter, err = floor.Filter{
		Permit: n.permit, AllConnects: floor.NeedsAllConnects(n.permit, terms.AgentSocket),
		Observed: n.permit.Mode == policy.Audit,
		Signals:  r.options.decidesSignals(), FilesHeld: terms.FilesHeld, Static: n.plan.Static,
	}.Assemble()
	return n, err
}

// ownRules says when the agent may write the files that its rules were read from.
func (r *runner) ownRules(permit *policy.Policy) []string {
	rules := permit.FileRules()
	if !rules.Governed() {
		return nil
	}
	var notes []string
	for _, path := range []string{r.options.PolicyPath, r.options.ManifestPath} {
		real, err := filepath.EvalSymlinks(path)
		if path == "" || err != nil {
			continue
		}
		if real, err = filepath.Abs(real); err != nil {
			continue
		}
		if d := rules.Decide(real, policy.Write); d.Verdict == policy.VerdictAllow {
			notes = append(notes, fmt.Sprintf("this agent may write %s (rule %s): it can change the rules of its next run", real, d.Rule))
		}
	}
	return notes
}
