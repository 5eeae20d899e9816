package software

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/signertest"
	"github.com/raypher/raypher/journal"
)

func TestConformance(t *testing.T) {
	dir := t.TempDir()
	target := signertest.Target{
		Open: func(t *testing.T) signer.Signer {
			k, _, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			return k
		},
		Tier:       journal.TierSoftware,
		Persistent: true,
		Verify: func(t *testing.T, e *journal.KeyEvidence) (signertest.Proven, error) {
			s, key, err := journal.VerifyStatement(e.Document)
			if err != nil {
				return signertest.Proven{}, err
			}
			return signertest.Proven{Key: key, Nonce: s.Nonce, Binding: signer.Binding{Epoch: s.Epoch, Configuration: s.ConfigurationHash}}, nil
		},
	}
	signertest.Run(t, target)
	signertest.RunKeyring(t, target)
}

func TestRefusesKeyFiles(t *testing.T) {
	for _, c := range []struct {
		name string
		bend func(t *testing.T, path string)
		want string
	}{
		{"group may read", func(t *testing.T, p string) { must(t, os.Chmod(p, 0o640)) }, "mode 0640"},
		{"others may write", func(t *testing.T, p string) { must(t, os.Chmod(p, 0o602)) }, "mode 0602"},
		{"symbolic link", func(t *testing.T, p string) {
			must(t, os.Rename(p, p+".real"))
			must(t, os.Symlink(p+".real", p))
		}, "too many levels of symbolic links"},
		{"folder", func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, os.Mkdir(p, 0o700)) }, "not a regular file"},
		{"empty", func(t *testing.T, p string) { must(t, os.Truncate(p, 0)) }, "not one PEM block"},
		{"cut off", func(t *testing.T, p string) { must(t, os.Truncate(p, 100)) }, "not one PEM block"},
		{"too large", func(t *testing.T, p string) { must(t, os.Truncate(p, 1<<20)) }, "at most"},
		{"another owner", func(t *testing.T, p string) {
			if os.Geteuid() != 0 {
				t.Skip("needs root to give a file away")
			}
			must(t, os.Chown(p, 12345, 12345))
		}, "owned by uid 12345"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			k, made, err := Open(dir)
			if err != nil || !made {
				t.Fatalf("first open: made %v, error %v", made, err)
			}
			must(t, k.Close())
			c.bend(t, filepath.Join(dir, KeyFile))
			if _, _, err := Open(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// Two processes that start at once must not end up with two keys.
func TestFirstStartRace(t *testing.T) {
	dir := t.TempDir()
	keys := make([]*Key, 16)
	var wait sync.WaitGroup
	for i := range keys {
		wait.Add(1)
		go func() {
			defer wait.Done()
			var err error
			if keys[i], _, err = Open(dir); err != nil {
				t.Error(err)
			}
		}()
	}
	wait.Wait()
	for _, k := range keys {
		if k == nil || !k.Public().Equal(keys[0].Public()) {
			t.Fatal("different keys")
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files left, want the key alone (%v)", len(entries), err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
