package link_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/providerkeys"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/recipient"
)

// The sandboxed enclave process takes a key of a provider over its service in each tier, and has it again after a restart: in a file, or under its TPM, where
// no file has the key.
func TestProviderKeys(t *testing.T) {
	const secret = "sk-a-key-of-a-provider"
	for tier, plain := range map[string]bool{journal.TierSoftware: true, journal.TierTPM: false} {
		t.Run(tier, func(t *testing.T) {
			o := localOf(t, tier)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			local, err := link.StartLocal(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { local.Close() }()
			added, err := local.ChangeProviderKey(ctx, changeOf(t, ctx, local, o.State, secret))
			if err != nil || len(added.GetKeys()) != 1 || added.GetKeys()[0].GetName() != "openai" || added.GetTier() != tier {
				t.Fatalf("%v, %v", added, err)
			}
			local.Close()
			if local, err = link.StartLocal(ctx, o); err != nil {
				t.Fatal(err)
			}
			again, err := local.DescribeProviderKeys(ctx, false)
			if err != nil || len(again.GetKeys()) != 1 || !bytes.Equal(again.GetKeys()[0].GetFingerprint(), added.GetKeys()[0].GetFingerprint()) || again.GetVersion() != 1 {
				t.Errorf("after a restart: %v, %v", again, err)
			}
			if there := inFolder(t, o.State, secret); there != plain {
				t.Errorf("the key stands in a file: %v", there)
			}
		})
	}
}

// changeOf adds a key as the operator of development.
func changeOf(t *testing.T, ctx context.Context, local *link.Local, state, secret string) []byte {
	t.Helper()
	keys, err := local.DescribeProviderKeys(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	d, err := local.Describe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	enclave, err := journal.ParseKey(d.GetPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	to, err := recipient.Verify(keys.GetRecipient(), enclave, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	change := &providerkeys.Change{Name: "openai", Version: keys.GetVersion() + 1, Action: journal.KeyAdded}
	if err := change.Seal(to, []byte(secret)); err != nil {
		t.Fatal(err)
	}
	operator, _, err := ceiling.DevelopmentKey(state)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := change.Sign(operator)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// inFolder says whether a text stands in any file of a folder.
func inFolder(t *testing.T, dir, text string) (there bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil && !os.IsPermission(err) {
			continue // a folder
		}
		there = there || bytes.Contains(content, []byte(text))
	}
	return there
}
