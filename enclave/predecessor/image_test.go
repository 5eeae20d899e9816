package predecessor

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/eif"
	verify "github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/nitro"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/lab/nsm"
)

// image is an enclave of tier nitro: what was booted, with what, and under whose root.
type image struct {
	measured      eif.Measurements
	configuration journal.Hash
	root          *nsm.Module // nil: one of its own
	at            time.Time   // zero: now
}

// life is an enclave that ran, with the claim of a store that holds its journal.
type life struct {
	module *nsm.Module
	key    *journal.Key
	claim  Claim
}

func (i image) run(t *testing.T, tier string) life {
	t.Helper()
	options := nsm.Options{Image: i.measured, Before: i.root}
	if !i.at.IsZero() {
		options.Now = func() time.Time { return i.at }
	}
	module := ok(nsm.New(options))(t)
	signing := ok(nitro.Open(t.Context(), nitro.NewDevice(module.Session()), i.configuration))(t)
	t.Cleanup(func() { signing.Close() })
	binding := signer.Binding{Epoch: journal.EpochID{byte(time.Now().UnixNano())}, Configuration: i.configuration}
	evidence := ok(signing.Evidence(t.Context(), nil, binding))(t)
	head := ok(journal.SignHead(journal.Head{
		Epoch: binding.Epoch, Size: 5, Root: journal.Hash{3}, Time: time.Now().UnixNano(), Tier: tier, ConfigurationHash: i.configuration,
	}, signer.ForJournal(t.Context(), signing)))(t)
	return life{module, ok(journal.NewKey(signing.Public()))(t), Claim{Epoch: binding.Epoch, Size: 5, SignedHead: head, KeyEvidence: evidence.Encode()}}
}

// An enclave that was started anew follows the journal of its own image and configuration, and of no other, without anybody's list.
func TestVerifySameImage(t *testing.T) {
	good := image{measured: eif.Measurements{PCR0: eif.PCR{1}, PCR1: eif.PCR{2}, PCR2: eif.PCR{3}, PCR8: &eif.PCR{8}}, configuration: journal.Hash{4, 5, 6}}
	own := good.run(t, journal.TierNitro)
	good.root = own.module
	root := sha256.Sum256(ok(verify.ParseRoots(own.module.RootPEM()))(t)[0].Raw)
	other := func(change func(*image)) func() life {
		return func() life {
			i := good
			change(&i)
			return i.run(t, journal.TierNitro)
		}
	}
	for _, c := range []struct {
		name   string
		before func() life
		roots  [][32]byte
		want   error
	}{
		{"the same image", other(func(*image) {}), [][32]byte{root}, nil},
		{"years ago", other(func(i *image) { i.at = time.Now().AddDate(-3, 0, 0) }), [][32]byte{root}, nil},
		{"the same image, of a root that the configuration does not name", other(func(*image) {}), nil, verify.CheckRoot},
		{"of a root of its own", other(func(i *image) { i.root = nil }), [][32]byte{root}, verify.CheckRoot},
		{"another PCR0", other(func(i *image) { i.measured.PCR0 = eif.PCR{9} }), [][32]byte{root}, verify.CheckPCR},
		{"another PCR1", other(func(i *image) { i.measured.PCR1 = eif.PCR{9} }), [][32]byte{root}, verify.CheckPCR},
		{"another PCR2", other(func(i *image) { i.measured.PCR2 = eif.PCR{9} }), [][32]byte{root}, verify.CheckPCR},
		{"another signer of the image", other(func(i *image) { i.measured.PCR8 = &eif.PCR{9} }), [][32]byte{root}, verify.CheckPCR},
		{"an image that nobody signed", other(func(i *image) { i.measured.PCR8 = nil }), [][32]byte{root}, verify.CheckPCR},
		{"another configuration", other(func(i *image) { i.configuration = journal.Hash{9} }), [][32]byte{root}, verify.CheckPCR},
		{"debug mode", other(func(i *image) { i.measured = eif.Measurements{} }), [][32]byte{root}, verify.CheckDebug},
		{"a head of a lower tier", func() life { return good.run(t, journal.TierSoftware) }, [][32]byte{root}, errAny},
		{"a key in a file", func() life { return life{claim: claimOf(newLog(t))} }, [][32]byte{root}, ErrNotAllowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.before()
			asking := Own{Key: own.key, Evidence: ok(journal.DecodeKeyEvidence(own.claim.KeyEvidence))(t), Roots: c.roots}
			check(t, before.claim, asking, c.want)
			if named, isCheck := c.want.(attest.Check); isCheck && named != verify.CheckDebug {
				check(t, before.claim, asking, ErrNotAllowed)
				asking.Allowed = [][32]byte{before.key.ID()}
				check(t, before.claim, asking, nil) // an operator may still list it
			}
		})
	}
	t.Run("an enclave in debug mode is like no other", func(t *testing.T) {
		bare := good
		bare.measured = eif.Measurements{}
		asking := Own{Key: own.key, Evidence: ok(journal.DecodeKeyEvidence(bare.run(t, journal.TierNitro).claim.KeyEvidence))(t), Roots: [][32]byte{root}}
		check(t, bare.run(t, journal.TierNitro).claim, asking, verify.CheckDebug)
		check(t, other(func(*image) {})().claim, asking, ErrNotAllowed)
	})
}

func ok[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
