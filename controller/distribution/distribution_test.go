package distribution_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller/callertest"
	"github.com/raypher/raypher/controller/distribution"
	"github.com/raypher/raypher/controller/store/storetest"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/release"
)

// bench is a controller's distribution, and what a test does with it.
type bench struct {
	*testing.T
	*distribution.Service
	fleet    *callertest.Fleet
	url      string
	key      crypto.Signer
	public   []byte
	operator context.Context
}

func each(t *testing.T, f func(b *bench)) {
	storetest.Each(t, func(t *testing.T, url string) {
		b := &bench{T: t, fleet: &callertest.Fleet{}, url: url, operator: callertest.Operator(context.Background())}
		b.key, b.public = newKey(t)
		b.Service = b.replica(b.public)
		f(b)
	})
}

func newKey(t *testing.T) (crypto.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

func (b *bench) replica(operatorKeys ...[]byte) *distribution.Service {
	return distribution.New(distribution.Options{DB: storetest.Open(b, b.url), Callers: b.fleet, OperatorKeys: operatorKeys})
}

func (b *bench) policy(key crypto.Signer, name string, version uint64, notAfter time.Time) []byte {
	b.Helper()
	p, err := policy.Parse("policy.yaml", fmt.Appendf(nil, "filesystem: {read: [/srv/%d]}\n", version))
	if err != nil {
		b.Fatal(err)
	}
	file, err := release.Sign(&release.Release{Name: name, Version: version, Policy: p, NotAfter: notAfter}, key)
	if err != nil {
		b.Fatal(err)
	}
	return file
}

func (b *bench) ceiling(key crypto.Signer, version uint64) []byte {
	b.Helper()
	c, err := ceiling.ParseSource("c.yaml", fmt.Appendf(nil, "version: %d\ntrust_domain: d\ngrants: [{namespace: dev, agents: [x], permit: {}}]\n", version))
	if err != nil {
		b.Fatal(err)
	}
	bundle, err := ceiling.Sign(c, key)
	if err != nil {
		b.Fatal(err)
	}
	return bundle
}

func (b *bench) put(name string, version uint64, percent uint32, hosts ...string) (*controllerv1.Release, error) {
	b.Helper()
	return b.PutPolicy(b.operator, &controllerv1.PutPolicyRequest{Bundle: b.policy(b.key, name, version, time.Time{}), Hosts: hosts, CanaryPercent: percent})
}

func (b *bench) mustPut(name string, version uint64, percent uint32, hosts ...string) {
	b.Helper()
	if _, err := b.put(name, version, percent, hosts...); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) canary(name string, percent uint32) error {
	_, err := b.SetCanary(b.operator, &controllerv1.SetCanaryRequest{Name: name, CanaryPercent: percent})
	return err
}

// has asks what a host should have, without holding anything: name=version, with the percentage where it is not for everyone. Each
// bundle must open with the operator's key and be what the reply says.
func (b *bench) has(host string) (all []string) {
	b.Helper()
	reply, err := b.Policies(callertest.Parent(b.Context(), host), &controllerv1.PoliciesRequest{})
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range reply.GetPolicies() {
		r, err := release.Open(p.GetBundle(), [][]byte{b.public})
		if err != nil || r.Name != p.GetName() || r.Version != p.GetVersion() {
			b.Errorf("%s version %d: %+v, %v", p.GetName(), p.GetVersion(), r, err)
		}
		text := fmt.Sprintf("%s=%d", p.GetName(), p.GetVersion())
		if p.GetCanaryPercent() != release.Everyone {
			text += fmt.Sprintf(" to %d%%", p.GetCanaryPercent())
		}
		all = append(all, text)
	}
	return all
}

func (b *bench) want(host string, want ...string) {
	b.Helper()
	if got := b.has(host); !slices.Equal(got, want) {
		b.Errorf("%s has %q, want %q", host, got, want)
	}
}

func (b *bench) refuses(err error, code codes.Code, text string) {
	b.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		b.Errorf("%v, want %s: %q", err, code, text)
	}
}

// TestPolicies: each host gets the newest policy of each name that is for it; versions go upwards.
func TestPolicies(t *testing.T) {
	each(t, func(b *bench) {
		b.want("build-1")
		b.mustPut("coder", 1, 0, "*")
		b.mustPut("reviewer", 7, 0, "web-*")
		b.mustPut("coder", 4, 0, "build-*", "db")
		b.want("build-1", "coder=4")
		b.want("db", "coder=4")
		b.want("web-1", "coder=1", "reviewer=7")
		for version, want := range map[uint64]codes.Code{3: codes.FailedPrecondition, 4: codes.FailedPrecondition} {
			_, err := b.put("coder", version, 0, "*")
			b.refuses(err, want, "version 4 was released before")
		}
		// Put again as it was, by an operator whose first answer was lost: nothing changes.
		if r, err := b.put("coder", 4, 0, "db", "build-*"); err != nil || r.GetVersion() != 4 {
			b.Errorf("%v, %v", r, err)
		}
		reply, err := b.Policies(callertest.Parent(b.Context(), "web-1"), &controllerv1.PoliciesRequest{Held: []*controllerv1.PolicyVersion{
			{Name: "coder", Version: 1}, {Name: "reviewer", Version: 6}, {Name: "gone", Version: 1},
		}})
		if err != nil || len(reply.GetPolicies()) != 2 || len(reply.GetPolicies()[0].GetBundle()) != 0 || len(reply.GetPolicies()[1].GetBundle()) == 0 {
			b.Errorf("a host that holds one: %v, %v", reply, err)
		}
		if reply.GetValidSeconds() != int64(distribution.DefaultOffline/time.Second) {
			b.Errorf("valid for %d s", reply.GetValidSeconds())
		}
	})
}

// TestCanary: while it lasts hosts have both versions; at 100 the newest alone, and there is no way back but a higher version.
func TestCanary(t *testing.T) {
	each(t, func(b *bench) {
		b.mustPut("coder", 1, 0, "*")
		b.mustPut("coder", 2, 10, "*")
		b.want("build-1", "coder=2 to 10%", "coder=1")
		if err := b.canary("coder", 30); err != nil {
			b.Fatal(err)
		}
		b.want("build-1", "coder=2 to 30%", "coder=1")

		_, err := b.put("coder", 3, 20, "*")
		b.refuses(err, codes.FailedPrecondition, "the canary of version 2, 30 percent on *, lasts")
		_, err = b.put("coder", 3, 30, "build-*")
		b.refuses(err, codes.FailedPrecondition, "lasts")
		b.mustPut("coder", 3, 30, "*") // takes its place
		b.want("build-1", "coder=3 to 30%", "coder=1")

		for _, percent := range []uint32{0, 101} {
			b.refuses(b.canary("coder", percent), codes.InvalidArgument, "use 1 to 100")
		}
		b.refuses(b.canary("none", 50), codes.NotFound, "no policy none")
		if err := b.canary("coder", 100); err != nil {
			b.Fatal(err)
		}
		b.want("build-1", "coder=3")
		if err := b.canary("coder", 100); err != nil {
			b.Errorf("said twice: %v", err)
		}
		b.refuses(b.canary("coder", 50), codes.FailedPrecondition, "version 3 is for everyone")

		// On fewer hosts: the others keep what they have, whatever becomes of the canary.
		b.mustPut("coder", 4, 50, "web-*")
		b.want("web-1", "coder=4 to 50%", "coder=3")
		b.want("build-1", "coder=3")
		b.mustPut("first", 1, 1, "*")
		b.want("build-1", "coder=3", "first=1 to 1%")
	})
}

// TestEveryAgentHasOnePolicy: whatever the percentage, an agent gets one of the versions that its host holds, and raising it moves
// agents to the newest only.
func TestEveryAgentHasOnePolicy(t *testing.T) {
	each(t, func(b *bench) {
		b.mustPut("coder", 1, 0, "*")
		b.mustPut("coder", 2, 1, "*")
		at := map[string]uint64{}
		for _, percent := range []uint32{1, 20, 60, 99, 100} {
			if err := b.canary("coder", percent); err != nil {
				b.Fatal(err)
			}
			reply, err := b.Policies(callertest.Parent(b.Context(), "build-1"), &controllerv1.PoliciesRequest{})
			if err != nil {
				b.Fatal(err)
			}
			for i := range 200 {
				subject := fmt.Sprintf("spiffe://d/ns/dev/agent/a%d", i)
				var has uint64
				for _, p := range reply.GetPolicies() {
					if release.Covers(p.GetName(), subject, p.GetCanaryPercent()) {
						has = max(has, p.GetVersion())
					}
				}
				if has == 0 || has < at[subject] || percent == 100 && has != 2 {
					b.Fatalf("%s at %d percent has version %d, before %d", subject, percent, has, at[subject])
				}
				at[subject] = has
			}
		}
	})
}

// TestCeilings: an enclave gets the one of the highest version that is for its host, and nothing that is not newer.
func TestCeilings(t *testing.T) {
	each(t, func(b *bench) {
		put := func(version uint64, hosts ...string) error {
			_, err := b.PutCeiling(b.operator, &controllerv1.PutCeilingRequest{Bundle: b.ceiling(b.key, version), Hosts: hosts})
			return err
		}
		want := func(host string, has, want uint64) {
			b.Helper()
			reply, err := b.Ceiling(callertest.NewEnclave(b, host, journal.TierNitro).Context(b.Context()), &controllerv1.CeilingRequest{Version: has})
			if err != nil {
				b.Fatal(err)
			}
			var got uint64
			if len(reply.GetBundle()) > 0 {
				c, err := ceiling.Open(reply.GetBundle(), [][]byte{b.public})
				if err != nil {
					b.Fatal(err)
				}
				got = c.Version
			}
			if got != want {
				b.Errorf("%s with version %d gets %d, want %d", host, has, got, want)
			}
		}
		want("build-1", 0, 0)
		for version, hosts := range map[uint64]string{3: "*", 5: "build-*", 9: "build-9"} {
			if err := put(version, hosts); err != nil {
				b.Fatal(err)
			}
		}
		want("web-1", 0, 3)
		want("web-1", 3, 0)
		want("web-1", 4, 0)
		want("build-1", 3, 5)
		want("build-9", 0, 9)
		if err := put(3, "*"); err != nil {
			b.Errorf("the same one again: %v", err)
		}
		b.refuses(put(2, "*"), codes.FailedPrecondition, "version 3 was released before")
		b.refuses(put(4, "build-*"), codes.FailedPrecondition, "version 5 was released before")
		if err := put(4, "*"); err != nil {
			b.Error(err)
		}
		want("web-1", 3, 4)
		want("build-1", 3, 5)
	})
}

// TestOperatorKeys: a controller that knows the operators' keys refuses what hosts would refuse; one that knows none looks at the form.
func TestOperatorKeys(t *testing.T) {
	each(t, func(b *bench) {
		stranger, _ := newKey(b.T)
		foreign := &controllerv1.PutPolicyRequest{Bundle: b.policy(stranger, "coder", 1, time.Time{}), Hosts: []string{"*"}}
		foreignCeiling := &controllerv1.PutCeilingRequest{Bundle: b.ceiling(stranger, 1), Hosts: []string{"*"}}
		_, err := b.PutPolicy(b.operator, foreign)
		b.refuses(err, codes.PermissionDenied, "which is no --ceiling-key")
		_, err = b.PutCeiling(b.operator, foreignCeiling)
		b.refuses(err, codes.PermissionDenied, "which is no --ceiling-key")
		changed := b.policy(b.key, "coder", 1, time.Time{})
		changed[len(changed)-1] ^= 1
		_, err = b.PutPolicy(b.operator, &controllerv1.PutPolicyRequest{Bundle: changed, Hosts: []string{"*"}})
		b.refuses(err, codes.PermissionDenied, "signature is wrong")
		b.want("build-1")
		open := b.replica()
		if _, err := open.PutPolicy(b.operator, foreign); err != nil {
			b.Error(err)
		}
		if _, err := open.PutCeiling(b.operator, foreignCeiling); err != nil {
			b.Error(err)
		}
	})
}

func TestPutRefuses(t *testing.T) {
	each(t, func(b *bench) {
		good := b.policy(b.key, "coder", 1, time.Time{})
		for name, r := range map[string]*controllerv1.PutPolicyRequest{
			"no bundle":           {Hosts: []string{"*"}},
			"a ceiling":           {Bundle: b.ceiling(b.key, 1), Hosts: []string{"*"}},
			"a cut bundle":        {Bundle: good[:len(good)-1], Hosts: []string{"*"}},
			"no hosts":            {Bundle: good},
			"hosts that are none": {Bundle: good, Hosts: []string{"a b"}},
			"more than everybody": {Bundle: good, Hosts: []string{"*"}, CanaryPercent: 101},
			"one that is over":    {Bundle: b.policy(b.key, "coder", 1, time.Now().Add(-time.Hour)), Hosts: []string{"*"}},
		} {
			if _, err := b.PutPolicy(b.operator, r); status.Code(err) != codes.InvalidArgument {
				b.Errorf("%s: %v", name, err)
			}
		}
		for name, r := range map[string]*controllerv1.PutCeilingRequest{
			"no bundle": {Hosts: []string{"*"}}, "a policy": {Bundle: good, Hosts: []string{"*"}}, "no hosts": {Bundle: b.ceiling(b.key, 1)},
		} {
			if _, err := b.PutCeiling(b.operator, r); status.Code(err) != codes.InvalidArgument {
				b.Errorf("ceiling: %s: %v", name, err)
			}
		}
	})
}

// TestWhoMayCall: operators release, parents ask for policies, attested enclaves for ceilings, and nobody anything else.
func TestWhoMayCall(t *testing.T) {
	each(t, func(b *bench) {
		b.mustPut("coder", 1, 0, "*")
		expired := callertest.NewEnclave(b, "build-1", journal.TierNitro)
		b.fleet.Expire(expired)
		enclave, parent := callertest.NewEnclave(b, "build-1", journal.TierNitro).Context(b.Context()), callertest.Parent(b.Context(), "build-1")
		operators := map[string]func(context.Context) error{
			"PutPolicy": func(ctx context.Context) error {
				_, err := b.PutPolicy(ctx, &controllerv1.PutPolicyRequest{Bundle: b.policy(b.key, "coder", 2, time.Time{}), Hosts: []string{"*"}})
				return err
			},
			"PutCeiling": func(ctx context.Context) error {
				_, err := b.PutCeiling(ctx, &controllerv1.PutCeilingRequest{Bundle: b.ceiling(b.key, 1), Hosts: []string{"*"}})
				return err
			},
			"SetCanary": func(ctx context.Context) error {
				_, err := b.SetCanary(ctx, &controllerv1.SetCanaryRequest{Name: "coder", CanaryPercent: 1})
				return err
			},
			"Releases": func(ctx context.Context) error {
				_, err := b.Releases(ctx, &controllerv1.ReleasesRequest{})
				return err
			},
		}
		for name, call := range operators {
			for who, ctx := range map[string]context.Context{"nobody": b.Context(), "an enclave": enclave, "a parent": parent} {
				if err := call(ctx); status.Code(err) != codes.PermissionDenied {
					b.Errorf("%s by %s: %v", name, who, err)
				}
			}
		}
		for who, ctx := range map[string]context.Context{"nobody": b.Context(), "an operator": b.operator, "a parent": parent, "an expired enclave": expired.Context(b.Context())} {
			if _, err := b.Ceiling(ctx, &controllerv1.CeilingRequest{}); status.Code(err) != codes.PermissionDenied {
				b.Errorf("Ceiling by %s: %v", who, err)
			}
		}
		for who, ctx := range map[string]context.Context{"nobody": b.Context(), "an operator": b.operator, "an enclave": enclave} {
			if _, err := b.Policies(ctx, &controllerv1.PoliciesRequest{}); status.Code(err) != codes.PermissionDenied {
				b.Errorf("Policies by %s: %v", who, err)
			}
		}
		b.want("build-1", "coder=1")
	})
}
