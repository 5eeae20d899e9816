package agents

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"os/user"
	"path/filepath"
	"testing"

	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/visa"
)

// Who runs an agent chooses what ~ means in its own policy, by $HOME, and not what it means in the ceiling.
func TestHomeOfTheCeiling(t *testing.T) {
	account, err := user.Current()
	if err != nil || !filepath.IsAbs(account.HomeDir) {
		t.Skipf("this user has no account with a home folder: %v", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &attend.Launch{Program: "/bin/true", Home: "/chosen/../elsewhere"}
	if l.ConfirmationKey, err = visa.ConfirmationKey(&key.PublicKey); err != nil {
		t.Fatal(err)
	}
	a, err := new(Host).describe(l, uint32(os.Getuid()))
	if err != nil {
		t.Fatal(err)
	}
	if a.policyHome != "/elsewhere" || a.home != account.HomeDir {
		t.Errorf("~ is %q in the policy and %q in the ceiling", a.policyHome, a.home)
	}
}
