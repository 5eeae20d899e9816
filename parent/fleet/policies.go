package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/policy"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/release"
)

// StateFile in the state folder holds the kept policies.
const StateFile = "fleet.policies"

// Bounds.
const (
	MaxPolicies = release.MaxHeld
	maxNames    = 256
	maxState    = MaxPolicies*(release.MaxFile+1024) + maxNames*256
	maxValid    = 30 * 24 * time.Hour // for which a controller may let a host work on
)

// ErrPolicy: no policy of the controller serves; the message says why.
var ErrPolicy = errors.New("no policy of the controller")

// kept is the file. Deterministic CBOR.
type kept struct {
	Format   uint64  `cbor:"1,keyasint"`
	Until    int64   `cbor:"2,keyasint"` // Unix seconds; 0: never fetched
	Policies []entry `cbor:"3,keyasint"` // by name, the highest version first
	Floors   []floor `cbor:"4,keyasint"` // by name
}

type entry struct {
	Name    string `cbor:"1,keyasint"`
	Version uint64 `cbor:"2,keyasint"`
	Canary  uint32 `cbor:"3,keyasint"`
	Bundle  []byte `cbor:"4,keyasint"`

	release *release.Release
}

// floor is what was seen of a name: its versions only go upwards.
type floor struct {
	Name    string `cbor:"1,keyasint"`
	Newest  uint64 `cbor:"2,keyasint"`
	ForMost uint64 `cbor:"3,keyasint"` // the highest that was for everyone
}

const stateFormat = 1

// load reads the kept policies and verifies them again: who writes the folder signs nothing.
func load(dir string, operators [][]byte) (*kept, error) {
	text, err := statefile.Read(filepath.Join(dir, StateFile), maxState)
	if errors.Is(err, os.ErrNotExist) {
		return &kept{Format: stateFormat}, nil
	}
	k := &kept{}
	if err == nil {
		err = strictcbor.Decode(text, maxState, k)
	}
	if err == nil && k.Format != stateFormat {
		err = fmt.Errorf("format %d", k.Format)
	}
	for i := range k.Policies {
		if err == nil {
			err = k.Policies[i].open(operators)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("kept policies %s: %w: remove the file to fetch them anew", filepath.Join(dir, StateFile), err)
	}
	return k, nil
}

// open verifies a release, and that it is the one that the entry says.
func (e *entry) open(operators [][]byte) error {
	r, err := release.Open(e.Bundle, operators)
	if err != nil {
		return fmt.Errorf("policy %.140q version %d: %w", e.Name, e.Version, err)
	}
	if r.Name != e.Name || r.Version != e.Version || e.Canary == 0 || e.Canary > release.Everyone {
		return fmt.Errorf("policy %.140q version %d for %d %% is %s version %d", e.Name, e.Version, e.Canary, r.Name, r.Version)
	}
	e.release = r
	return nil
}

// held are the versions that are kept.
func (k *kept) held() []*controllerv1.PolicyVersion {
	var out []*controllerv1.PolicyVersion
	for _, e := range k.Policies {
		out = append(out, &controllerv1.PolicyVersion{Name: e.Name, Version: e.Version})
	}
	return out
}

// fetch asks for policies until nothing is missing, and keeps what came.
func (c *Client) fetch(ctx context.Context) error {
	c.mu.RLock()
	k := c.kept
	c.mu.RUnlock()
	have := k.Policies
	for range MaxPolicies {
		held := &kept{Policies: have}
		reply, err := c.distribution.Policies(ctx, &controllerv1.PoliciesRequest{Held: held.held()})
		if err != nil {
			return err
		}
		entries, missing, err := c.entries(reply, have)
		if err != nil {
			return err
		}
		if !missing {
			return c.keep(k, entries, reply.GetValidSeconds())
		}
		have = append(slices.Clip(k.Policies), entries...) // entries hold what came with earlier replies
	}
	return errors.New("the controller lists policies that it does not hand out")
}

// entries are the releases of a reply, verified. missing: some were left out of it, as it was full.
func (c *Client) entries(reply *controllerv1.PoliciesReply, have []entry) (out []entry, missing bool, err error) {
	if n := len(reply.GetPolicies()); n > MaxPolicies {
		return nil, false, fmt.Errorf("%d policies for this host, at most %d", n, MaxPolicies)
	}
	for _, p := range reply.GetPolicies() {
		e := entry{Name: p.GetName(), Version: p.GetVersion(), Canary: p.GetCanaryPercent(), Bundle: p.GetBundle()}
		if len(e.Bundle) == 0 {
			i := slices.IndexFunc(have, func(h entry) bool { return h.Name == e.Name && h.Version == e.Version })
			if i < 0 {
				missing = true
				continue
			}
			e.Bundle = have[i].Bundle
		}
		if err := e.open(c.opts.Configuration.OperatorKeys); err != nil {
			return nil, false, err
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Version, a.Version))
	})
	return out, missing, nil
}

// keep puts releases in force, if no version goes down, and makes them durable first.
func (c *Client) keep(before *kept, entries []entry, validSeconds int64) error {
	next := &kept{Format: stateFormat, Policies: entries, Floors: slices.Clone(before.Floors)}
	for i, e := range entries {
		if err := next.raise(e, i == 0 || entries[i-1].Name != e.Name); err != nil {
			return err
		}
	}
	valid := min(max(time.Duration(validSeconds), 0), maxValid/time.Second) * time.Second
	next.Until = c.now().Add(valid).Unix()
	if err := statefile.Write(c.opts.State, StateFile, strictcbor.Encode(next)); err != nil {
		return fmt.Errorf("keep policies: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		if !slices.ContainsFunc(before.Policies, func(old entry) bool { return old.Name == e.Name && old.Version == e.Version }) {
			c.opts.Log.Info("a policy of the controller came", "name", e.Name, "version", e.Version, "percent_of_agents", e.Canary)
		}
	}
	c.kept = next
	return nil
}

// raise holds a release against what was seen of its name. newest: it is the highest version of its name now.
func (k *kept) raise(e entry, newest bool) error {
	i := slices.IndexFunc(k.Floors, func(f floor) bool { return f.Name == e.Name })
	if i < 0 {
		if len(k.Floors) >= maxNames {
			return fmt.Errorf("more than %d names of policies were seen: remove %s", maxNames, StateFile)
		}
		i, k.Floors = len(k.Floors), append(k.Floors, floor{Name: e.Name})
	}
	f := &k.Floors[i]
	if newest && e.Version < f.Newest || e.Version < f.ForMost {
		return fmt.Errorf("policy %s came in version %d, version %d was here before: versions only go upwards", e.Name, e.Version, max(f.ForMost, f.Newest))
	}
	f.Newest = max(f.Newest, e.Version)
	if e.Canary == release.Everyone {
		f.ForMost = max(f.ForMost, e.Version)
	}
	return nil
}

// Policy is the release of a name for an agent: the highest version that is for it. subject is the agent's SPIFFE ID under a policy, whose
// namespace is part of it. The error wraps ErrPolicy.
func (c *Client) Policy(name string, subject func(*policy.Policy) string) (*release.Release, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	now, last := c.now(), ""
	if c.failure != "" {
		last = ": " + c.failure
	}
	if c.kept.Until == 0 {
		return nil, fmt.Errorf("%w: none was fetched from %s yet%s", ErrPolicy, c.opts.Configuration.Controller, last)
	}
	if until := time.Unix(c.kept.Until, 0); !now.Before(until) {
		return nil, fmt.Errorf("%w: those that are kept served until %s, and %s was not reached since%s", ErrPolicy,
			until.UTC().Format(time.RFC3339), c.opts.Configuration.Controller, last)
	}
	var over error
	for _, e := range c.kept.Policies {
		if e.Name != name || !release.Covers(name, subject(e.release.Policy), e.Canary) {
			continue
		}
		if e.release.Over(now) {
			over = fmt.Errorf("%w: %s version %d was over at %s", ErrPolicy, name, e.Version, e.release.NotAfter.UTC().Format(time.RFC3339))
			break
		}
		return e.release, nil
	}
	if over != nil {
		return nil, over
	}
	return nil, fmt.Errorf("%w: %.140q is not among those for this host", ErrPolicy, name)
}
