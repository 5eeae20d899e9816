package doctor

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
)

// lookedAt is the check of that name on what the TPM says now.
func lookedAt(t *testing.T, tpm *tpmtest.TPM, name string) Check {
	t.Helper()
	f := healthy()
	f.lookAtTPM(tpm.Socket)
	if f.TPM.Err != nil {
		t.Fatal(f.TPM.Err)
	}
	return checkOf(t, checkTPM(f), name)
}

func checkOf(t *testing.T, checks []Check, name string) Check {
	t.Helper()
	i := slices.IndexFunc(checks, func(c Check) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("no check %q in %+v", name, checks)
	}
	return checks[i]
}

func wantCheck(t *testing.T, c Check, status Status, texts ...string) {
	t.Helper()
	said := c.Found + "|" + c.Consequence + "|" + c.Fix
	if c.Status != status {
		t.Errorf("%s: %s, want %s: %s", c.Name, c.Status, status, said)
	}
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Errorf("%s: %q is not in %s", c.Name, text, said)
		}
	}
	if (c.Status == Warn) != (c.Fix != "" && c.Status != Info) {
		t.Errorf("%s: a warning without a next step, or the other way: %s", c.Name, said)
	}
}

// A TPM in good health, then one in each kind of bad health, as a real (software) TPM tells it.
func TestTPMHealth(t *testing.T) {
	ca := tpmtest.NewCA(t)
	tpm := tpmtest.Start(t, ca.Make(t))
	dir := t.TempDir()
	wantCheck(t, lookedAt(t, tpm, "TPM"), OK, "IBM", "revision 1.", tpm.Socket, "raypherd --tpm-device")
	wantCheck(t, lookedAt(t, tpm, "TPM certificate"), OK, "0x1c00002")
	wantCheck(t, lookedAt(t, tpm, "TPM PCR banks"), OK, "sha256")
	wantCheck(t, lookedAt(t, tpm, "TPM lockout"), OK, "0 of")
	wantCheck(t, lookedAt(t, tpm, "TPM clock"), OK, "resets")

	// Two wrong passwords of two allowed.
	tpm.Tool(t, dir, "tpm2_dictionarylockout", "-s", "-n", "2", "-t", "1000", "-l", "1000")
	tpm.Tool(t, dir, "tpm2_createprimary", "-Q", "-C", "o", "-p", "right", "-c", "primary.ctx")
	for _, want := range []Status{Info, Warn} {
		wrong := exec.Command("tpm2_create", "-Q", "-C", "primary.ctx", "-P", "wrong", "-u", "pub", "-r", "priv")
		wrong.Dir, wrong.Env = dir, append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+tpm.Socket)
		if out, err := wrong.CombinedOutput(); err == nil {
			t.Fatalf("a wrong password is taken: %s", out)
		}
		wantCheck(t, lookedAt(t, tpm, "TPM lockout"), want, "of 2 wrong passwords", "tpm2_dictionarylockout --clear-lockout")
	}
	wantCheck(t, lookedAt(t, tpm, "TPM lockout"), Warn, "in lockout", "the signing key does")

	// Without a SHA-256 bank, after the reset that this takes.
	tpm.Tool(t, dir, "tpm2_pcrallocate", "-Q", "sha1:all+sha256:none")
	before := lookedAt(t, tpm, "TPM clock")
	tpm.Reset(t)
	f := healthy()
	f.lookAtTPM(tpm.Socket)
	wantCheck(t, checkOf(t, checkTPM(f), "TPM"), Warn, "the firmware has not started it")
	tpm.Tool(t, dir, "tpm2_startup", "-c")
	wantCheck(t, lookedAt(t, tpm, "TPM PCR banks"), Warn, "no evidence can be made", "tpm2_pcrallocate sha256:all")
	wantCheck(t, lookedAt(t, tpm, "TPM clock"), Info, "not safe", "power was lost without a shutdown")
	if after := lookedAt(t, tpm, "TPM clock"); after.Found == before.Found {
		t.Errorf("the reset is not counted: %s", after.Found)
	}

	bare := tpmtest.Start(t, t.TempDir())
	wantCheck(t, lookedAt(t, bare, "TPM certificate"), Warn, "raypherd does not start", "tpm2_getekcertificate", "tpm.conf")
}

// A simulator that another program holds is not called broken.
func TestTPMThatIsHeld(t *testing.T) {
	t.Parallel() // it takes tpmTimeout
	tpm := tpmtest.Start(t, t.TempDir())
	holder, err := net.Dial("unix", tpm.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	f := healthy()
	f.lookAtTPM(tpm.Socket)
	wantCheck(t, checkOf(t, checkTPM(f), "TPM"), Warn, "stop raypherd, or whoever else holds it")
}

// One that cannot be asked is one check, which says why and what to do.
func TestTPMThatCannotBeAsked(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := healthy()
	f.lookAtTPM(filepath.Join(dir, "none"))
	wantCheck(t, checkOf(t, checkTPM(f), "TPM"), Warn, "none at", "tier software", "firmware's setup")
	f.lookAtTPM(file)
	wantCheck(t, checkOf(t, checkTPM(f), "TPM"), Warn, "not a device")
	for _, c := range []struct {
		tpm    TPM
		status Status
		want   string
	}{
		{TPM{Device: DefaultTPM, Err: fs.ErrNotExist}, Info, "none at /dev/tpmrm0"},
		{TPM{Device: DefaultTPM, Err: fs.ErrPermission, Group: "tss", Mode: 0o660}, Info, "usermod -aG tss USER"},
		{TPM{Device: "/dev/tpm0", Err: fmt.Errorf("open: %w", syscall.EBUSY)}, Warn, "use /dev/tpmrm0"},
		{TPM{Device: DefaultTPM, Err: fmt.Errorf("properties: %w", tpm2.TPMRCFailure)}, Warn, "failure mode: power the machine off and on"},
		{TPM{Device: DefaultTPM, Err: tpm2.TPMRCUpgrade}, Warn, "finish it with the vendor's tool"},
		{TPM{Device: DefaultTPM, Err: tpm2.TPMRCInitialize}, Warn, "update the machine's firmware"},
		{TPM{Device: DefaultTPM, Err: fmt.Errorf("%s: %w for %s", DefaultTPM, errNoAnswer, 5*time.Second)}, Warn, "kernel's log"},
	} {
		f.TPM = &c.tpm
		checks := checkTPM(f)
		if len(checks) != 1 {
			t.Fatalf("%v: %d checks", c.tpm.Err, len(checks))
		}
		wantCheck(t, checks[0], c.status, c.want)
	}
	open := &TPM{Device: DefaultTPM, Group: "root", Mode: 0o666, Banks: []string{"sha256"}}
	wantCheck(t, open.checkAccess(), Warn, "every program on this host", "udev")
}
