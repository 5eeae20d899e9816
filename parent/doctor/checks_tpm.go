package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// checkTPM says how the TPM is; where there is none, or it cannot be asked, one check says all.
func checkTPM(f *Findings) []Check {
	t := f.TPM
	if t == nil {
		return nil
	}
	if t.Err != nil {
		return []Check{t.unusable(f)}
	}
	return []Check{
		{Name: "TPM", Status: OK, Found: fmt.Sprintf("%s %s, firmware %s, TPM 2.0 revision %s, at %s", t.Manufacturer, t.Model, t.Firmware, t.Revision, t.Device),
			Consequence: t.use(f)},
		t.checkAccess(), t.checkLockout(), t.checkClock(), t.checkBanks(), t.checkCertificate(),
	}
}

func (t *TPM) use(f *Findings) string {
	if tier(f) == "tpm" {
		return ""
	}
	return "not in use for visas: raypherd --tpm-device " + t.Device + " makes them of tier tpm"
}

// unusable is the check of a TPM that gave no answer.
func (t *TPM) unusable(f *Findings) Check {
	c := Check{Name: "TPM", Status: Warn, Found: t.Err.Error(), Consequence: "visas cannot be of tier tpm"}
	has := func(code tpm2.TPMRC) bool { return errors.Is(t.Err, code) }
	switch {
	case errors.Is(t.Err, fs.ErrNotExist):
		c.Found = "none at " + t.Device
		c.Consequence = "visas are of tier software here: their key is protected by the operating system alone"
		c.Fix = "enable TPM 2.0 (fTPM, PTT) in the firmware's setup, and look for it in the kernel's log"
		if !t.Named {
			c.Status = Info
		}
	case errors.Is(t.Err, fs.ErrPermission):
		c.Found = fmt.Sprintf("at %s, for root and group %s (mode %04o); this user may not ask it", t.Device, t.Group, t.Mode.Perm())
		c.Consequence = "raypherd, as root, can use it; an enclave that this user starts cannot"
		c.Fix = "sudo raypher doctor looks at it; usermod -aG " + t.Group + " USER lets a user use it"
		c.Status = Info
	case errors.Is(t.Err, syscall.EBUSY):
		c.Fix = "another process holds it: use " + DefaultTPM + ", which the kernel shares, or stop that process"
	case has(tpm2.TPMRCFailure):
		c.Fix = "it is in failure mode: power the machine off and on; if that does not help, the chip is broken"
	case has(tpm2.TPMRCUpgrade):
		c.Fix = "it is in the middle of a firmware upgrade: finish it with the vendor's tool"
	case has(tpm2.TPMRCInitialize):
		c.Fix = "the firmware has not started it: update the machine's firmware"
	case t.Mode&fs.ModeSocket != 0 && (errors.Is(t.Err, errNoAnswer) || errors.Is(t.Err, syscall.EAGAIN)): // EAGAIN: too many wait already
		c.Consequence = "what it is like is not known; if raypherd holds it, visas are of tier tpm all the same"
		c.Fix = "a simulator serves one program at a time: stop raypherd, or whoever else holds it, and look again"
	default:
		c.Fix = "look into the kernel's log; power the machine off and on"
	}
	return c
}

func (t *TPM) checkAccess() Check {
	c := Check{Name: "TPM access", Status: OK, Found: fmt.Sprintf("group %s, mode %04o", t.Group, t.Mode.Perm())}
	if t.Mode.Perm()&0o006 != 0 {
		c.Status = Warn
		c.Consequence = "every program on this host can use the TPM, agents too where their policies let them open it"
		c.Fix = "chmod o= " + t.Device + ", and the same in the udev rule that made it"
	}
	return c
}

func (t *TPM) checkLockout() Check {
	c := Check{Name: "TPM lockout", Status: OK, Found: fmt.Sprintf("%d of %d wrong passwords, one is forgiven every %s", t.LockoutCounter, t.MaxTries, t.LockoutInterval)}
	clear := "tpm2_dictionarylockout --clear-lockout, as its owner"
	switch {
	case t.InLockout:
		c.Status, c.Found = Warn, "in lockout: "+c.Found
		c.Consequence = "keys with passwords do not work; the signing key does, it has none (noda)"
		c.Fix = fmt.Sprintf("%s; or wait %s", clear, t.LockoutInterval)
	case t.LockoutCounter > 0:
		c.Status, c.Consequence, c.Fix = Info, "some program gives the TPM wrong passwords", clear
	}
	return c
}

func (t *TPM) checkClock() Check {
	c := Check{Name: "TPM clock", Status: OK, Found: fmt.Sprintf("powered for %s, %d resets, %d restarts since the last", t.Clock.Round(time.Second), t.Resets, t.Restarts)}
	if !t.Safe {
		c.Status = Info
		c.Found += ", not safe"
		c.Consequence = "power was lost without a shutdown, so its time may have gone back; evidence says so"
		c.Fix = "shut the machine down orderly; the flag comes back after at most 70 minutes of running"
	}
	return c
}

func (t *TPM) checkBanks() Check {
	c := Check{Name: "TPM PCR banks", Status: OK, Found: strings.Join(t.Banks, ", ")}
	switch {
	case !slices.Contains(t.Banks, "sha256"):
		if len(t.Banks) == 0 {
			c.Found = "none"
		}
		c.Status, c.Consequence = Warn, "no evidence can be made: it quotes the SHA-256 bank"
		c.Fix = "switch the SHA-256 bank on in the firmware's setup, or tpm2_pcrallocate sha256:all, and restart the machine"
	case slices.Contains(t.Banks, "sha1"):
		c.Consequence = "evidence uses sha256; sha1 is there for older software"
	}
	return c
}

func (t *TPM) checkCertificate() Check {
	if len(t.EKs) == 0 {
		return Check{Name: "TPM certificate", Status: Warn, Found: "no EK certificate in the TPM",
			Consequence: "no evidence can be made, and raypherd does not start on it: nobody could verify it down to its maker",
			Fix:         "get it from the maker: tpm2_getekcertificate -o ek.der; then ek_certificate = ek.der in tpm.conf"}
	}
	indices := make([]string, len(t.EKs))
	for i, h := range t.EKs {
		indices[i] = fmt.Sprintf("%#x", h)
	}
	return Check{Name: "TPM certificate", Status: OK, Found: "EK certificate at " + strings.Join(indices, ", ")}
}
