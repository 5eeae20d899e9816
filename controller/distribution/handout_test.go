package distribution_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller/callertest"
	"github.com/raypher/raypher/controller/distribution"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/policy"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/release"
)

// TestReleasesAndRecord: what was released is listed, and who did it is on record.
func TestReleasesAndRecord(t *testing.T) {
	each(t, func(b *bench) {
		b.mustPut("coder", 1, 0, "*")
		b.mustPut("coder", 2, 10, "*")
		if err := b.canary("coder", 20); err != nil {
			b.Fatal(err)
		}
		if _, err := b.PutCeiling(b.operator, &controllerv1.PutCeilingRequest{Bundle: b.ceiling(b.key, 3), Hosts: []string{"web-*", "build-*"}}); err != nil {
			b.Fatal(err)
		}
		reply, err := b.Releases(b.operator, &controllerv1.ReleasesRequest{})
		if err != nil {
			b.Fatal(err)
		}
		var got []string
		for _, r := range reply.GetReleases() {
			if len(r.GetSha256()) != 64 || r.GetPutUnix() == 0 {
				b.Errorf("%v", r)
			}
			got = append(got, fmt.Sprintf("%s %s %d %q %d", r.GetKind(), r.GetName(), r.GetVersion(), r.GetHosts(), r.GetCanaryPercent()))
		}
		if want := []string{`ceiling build-*,web-* 3 ["build-*" "web-*"] 100`, `policy coder 2 ["*"] 20`, `policy coder 1 ["*"] 100`}; !slices.Equal(got, want) {
			b.Errorf("%q, want %q", got, want)
		}
		var actions []string
		if err := b.DB.View(b.Context(), func(tx *store.Tx) error {
			entries, err := tx.Entries(0, 100)
			for _, e := range entries {
				if e.Actor != callertest.OperatorKey || e.Outcome != store.OK {
					b.Errorf("%+v", e)
				}
				actions = append(actions, e.Action)
			}
			return err
		}); err != nil {
			b.Fatal(err)
		}
		if want := []string{"policy.put", "policy.put", "policy.canary", "ceiling.put"}; !slices.Equal(actions, want) {
			b.Errorf("on record: %q", actions)
		}
	})
}

// TestReleasesAtOnce: of operators who release the same version at two replicas at once one succeeds.
func TestReleasesAtOnce(t *testing.T) {
	each(t, func(b *bench) {
		replicas := []*distribution.Service{b.Service, b.replica(b.public)}
		var (
			all  sync.WaitGroup
			mu   sync.Mutex
			good int
		)
		for i := range 8 {
			bundle := b.policy(b.key, "coder", 1, time.Now().Add(time.Duration(i+1)*time.Hour)) // each is another file
			all.Go(func() {
				_, err := replicas[i%2].PutPolicy(b.operator, &controllerv1.PutPolicyRequest{Bundle: bundle, Hosts: []string{"*"}})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					good++
				} else if status.Code(err) != codes.FailedPrecondition {
					b.Error(err)
				}
			})
		}
		all.Wait()
		if good != 1 {
			b.Errorf("%d of 8 were released", good)
		}
	})
}

// TestLargeReplies: more bundles than fit into one reply come when the host says what it holds.
func TestLargeReplies(t *testing.T) {
	each(t, func(b *bench) {
		large := &policy.Policy{Filesystem: &policy.Filesystem{}}
		for i := range 1000 {
			large.Filesystem.Read = append(large.Filesystem.Read, fmt.Sprintf("/srv/%s/%d", strings.Repeat("x", 220), i))
		}
		const many = distribution.MaxReply/(200<<10) + 2
		for i := range many {
			bundle, err := release.Sign(&release.Release{Name: fmt.Sprintf("policy-%02d", i), Version: 1, Policy: large}, b.key)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := b.PutPolicy(b.operator, &controllerv1.PutPolicyRequest{Bundle: bundle, Hosts: []string{"*"}}); err != nil {
				b.Fatal(err)
			}
		}
		request, calls, size := &controllerv1.PoliciesRequest{}, 0, 0
		for len(request.Held) < many && calls < 3 {
			reply, err := b.Policies(callertest.Parent(b.Context(), "build-1"), request)
			if err != nil || len(reply.GetPolicies()) != many {
				b.Fatal(len(reply.GetPolicies()), err)
			}
			calls, size = calls+1, 0
			for _, p := range reply.GetPolicies() {
				if size += len(p.GetBundle()); len(p.GetBundle()) > 0 {
					request.Held = append(request.Held, &controllerv1.PolicyVersion{Name: p.GetName(), Version: p.GetVersion()})
				}
			}
			if size > distribution.MaxReply {
				b.Errorf("a reply with %d bytes of bundles", size)
			}
		}
		if calls != 2 || len(request.Held) != many {
			b.Errorf("%d calls for %d of %d policies", calls, len(request.Held), many)
		}
	})
}

// TestNoMoreThanHostsKeep: what hosts could not keep beside the rest is not released, canaries counted twice.
func TestNoMoreThanHostsKeep(t *testing.T) {
	each(t, func(b *bench) {
		for i := range release.MaxHeld - 2 {
			b.mustPut(fmt.Sprintf("policy-%02d", i), 1, 0, "*")
		}
		b.mustPut("policy-00", 2, 10, "*")
		b.mustPut("last", 1, 0, "*")
		for name, percent := range map[string]uint32{"another": 0, "last": 50} {
			_, err := b.put(name, 2, percent, "*")
			b.refuses(err, codes.ResourceExhausted, "hosts keep 64")
		}
		b.mustPut("last", 2, 0, "*")
		if got := b.has("build-1"); len(got) != release.MaxHeld {
			b.Errorf("a host has %d", len(got))
		}
		if err := b.canary("policy-00", 100); err != nil {
			b.Fatal(err)
		}
		b.mustPut("another", 1, 0, "*")
	})
}
