// Package attest is for relying parties: what its subpackages have in common when they verify evidence about the place in
// which an enclave key lives (RFC 9334: they are verifiers, and the evidence comes from an attester).
//
// Each subpackage judges the evidence of one tier and stands alone: attest/nitro the documents of AWS Nitro Enclaves, and
// attest/tpm the bundles of TPM 2.0 hosts. None of them reads the network or writes anything, and none imports the
// host side or the trusted side of Raypher: other programs can verify with them.
package attest

import (
	"fmt"
	"strconv"
)

// Check names one check of a verifier. It is an error of its own, so that callers tell refusals apart:
//
//	if errors.Is(err, nitro.CheckNonce) { ... }
//
// The names are stable: they stand first in the text of a refusal and in the documentation.
type Check string

// Error implements error.
func (c Check) Error() string { return string(c) }

// Refusal is the error of a verifier that does not accept evidence. Every other error of a verifier is about its caller's
// options.
type Refusal struct {
	Check Check // what failed; checks run in a documented order, and the first that fails is named
	Err   error // why; may quote the evidence
}

// Refuse makes a refusal; the format is that of fmt.Errorf.
func Refuse(check Check, format string, args ...any) error {
	return &Refusal{Check: check, Err: fmt.Errorf(format, args...)}
}

// Error is one line of printable characters, whatever the evidence holds.
func (r *Refusal) Error() string {
	quoted := strconv.QuoteToGraphic(r.Err.Error())
	return string(r.Check) + ": " + unquote(quoted)
}

// Unwrap makes both the check and its reason visible to errors.Is and errors.As.
func (r *Refusal) Unwrap() []error { return []error{r.Check, r.Err} }

// unquote takes the frame off a quoted text and gives the quotation marks inside back, which need no escape on a line.
func unquote(quoted string) string {
	text := make([]byte, 0, len(quoted))
	for i := 1; i < len(quoted)-1; i++ {
		if quoted[i] == '\\' && quoted[i+1] == '"' {
			i++
		}
		text = append(text, quoted[i])
		if quoted[i] == '\\' { // the character after it belongs to it: \\ and \n stay as they are
			i++
			text = append(text, quoted[i])
		}
	}
	return string(text)
}
