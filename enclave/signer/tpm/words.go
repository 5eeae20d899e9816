package tpm

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// advice says what to do about response codes of a TPM (Part 2, 6.6).
var advice = []struct {
	code tpm2.TPMRC
	text string
}{
	{tpm2.TPMRCLockout, "the TPM is in lockout after wrong passwords: wait until it recovers, or run tpm2_dictionarylockout --clear-lockout as its owner"},
	{tpm2.TPMRCRetry, "the TPM is busy and stayed so: try again; if it stays, look for another process that floods it"},
	{tpm2.TPMRCYielded, "the TPM is busy and stayed so: try again"},
	{tpm2.TPMRCTesting, "the TPM tests itself and does not finish: try again in a minute, then power the machine off and on"},
	{tpm2.TPMRCFailure, "the TPM is in failure mode: power the machine off and on; if it stays, the chip or its firmware is broken"},
	{tpm2.TPMRCUpgrade, "the TPM is in the middle of a firmware upgrade: finish it with the vendor's tool"},
	{tpm2.TPMRCInitialize, "the firmware has not started the TPM: update the machine's firmware, or start the simulator with --flags not-need-init,startup-clear"},
	{tpm2.TPMRCObjectMemory, "the TPM has no room for another key: use /dev/tpmrm0, or flush with tpm2_flushcontext --transient-object"},
	{tpm2.TPMRCSessionMemory, "the TPM has no room for another session: use /dev/tpmrm0, or flush with tpm2_flushcontext --loaded-session"},
	{tpm2.TPMRCSessionHandles, "the TPM has no room for another session: flush with tpm2_flushcontext --saved-session"},
	{tpm2.TPMRCMemory, "the TPM is out of memory: stop other users of it, or restart the machine"},
	{tpm2.TPMRCAuthFail, "the TPM asks for a password that is not empty: make the key with tpm2-tools and name it in tpm.conf, or clear the password with tpm2_changeauth"},
	{tpm2.TPMRCBadAuth, "the TPM asks for a password that is not empty: make the key with tpm2-tools and name it in tpm.conf, or clear the password with tpm2_changeauth"},
	{tpm2.TPMRCHierarchy, "the hierarchy is switched off: enable it in the firmware's setup"},
	{tpm2.TPMRCDisabled, "the command is switched off: enable the TPM in the firmware's setup"},
	{tpm2.TPMRCCommandCode, "this TPM does not know the command: it needs TPM 2.0 firmware of revision 1.16 or later; update it"},
	{tpm2.TPMRCCurve, "this TPM knows no P-256: update its firmware, or use another TPM"},
	{tpm2.TPMRCScheme, "this TPM knows no ECDSA with SHA-256: update its firmware, or use another TPM"},
	{tpm2.TPMRCIntegrity, "the key is of another TPM, or this one was cleared: move the key file away, then a new key is made"},
	{tpm2.TPMRCNVUnavailable, "the TPM's memory is not available just now: try again"},
	{tpm2.TPMRCNVRate, "the TPM slows down writing to protect its memory: wait a few seconds"},
}

// inWords adds the next step to an error of the TPM.
func inWords(err error) error {
	for _, a := range advice {
		if errors.Is(err, a.code) {
			return fmt.Errorf("%w: %s", err, a.text)
		}
	}
	return err
}

// Waiting for a TPM that says it is busy: six times, 0.6 s in all.
const (
	maxAttempts  = 6
	firstBackoff = 10 * time.Millisecond
)

// patiently sends a command again while the TPM says that it will be able to do it later.
func patiently(send func() error) error {
	wait := firstBackoff
	for attempt := 1; ; attempt++ {
		err := send()
		busy := errors.Is(err, tpm2.TPMRCRetry) || errors.Is(err, tpm2.TPMRCYielded) || errors.Is(err, tpm2.TPMRCTesting) ||
			errors.Is(err, tpm2.TPMRCNVRate)
		if !busy || attempt == maxAttempts {
			return err
		}
		time.Sleep(wait)
		wait *= 2
	}
}

// command is a go-tpm command with its response.
type command[R any] interface {
	Execute(transport.TPM, ...tpm2.Session) (*R, error)
}

// execute runs a command, patiently.
func execute[R any](tpm transport.TPM, c command[R], s ...tpm2.Session) (response *R, err error) {
	err = patiently(func() error {
		response, err = c.Execute(tpm, s...)
		return err
	})
	return response, err
}
