package evidence

import (
	"fmt"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// ProvenVisa is a visa that was checked from its claims down to the evidence of the enclave's key.
type ProvenVisa struct {
	Claims   *visa.Claims
	Head     *journal.Head // under which it lies
	KeyTrust *Attested
	Pinned   bool // the key is one of Options.Keys
}

// VerifyVisa checks the whole chain of a visa, offline: the key evidence by the verifier of its tier and by o, the tree head's signature
// by that very key, that evidence and head name the same tier, epoch and configuration, then the visa as visa.Verify does.
// Keys and AllowSoftware of v are set here: the only key that counts is the one behind the evidence, and claims, head and evidence
// must name the same tier, so a key in a file never passes for one in hardware.
//
// The evidence is too large for a visa, which leads to it by what it names: the head says the epoch and, by its hash, the key. Entry 0
// of that epoch holds evidence that was made for no verifier; the enclave makes fresh one for a nonce while that epoch lasts.
func VerifyVisa(data []byte, ev *journal.KeyEvidence, v visa.Options, o Options) (*ProvenVisa, error) {
	_, receipt, _, err := visa.Split(data)
	if err != nil {
		return nil, err
	}
	head, attested, pinned, err := o.VerifyHead(receipt.SignedHead, ev)
	if err != nil {
		return nil, err
	}
	v.Keys, v.AllowSoftware = []*journal.Key{attested.Key}, o.AllowSoftware
	claims, err := visa.Verify(data, v)
	if err != nil {
		return nil, err
	}
	return &ProvenVisa{Claims: claims, Head: head, KeyTrust: attested, Pinned: pinned}, nil
}

// VisaEvidence returns the key evidence for a visa's head from a bundle: any bundle of the same epoch has it, that of entry 0 for
// example. Nothing is verified.
func (b *Bundle) VisaEvidence(data []byte) (*journal.KeyEvidence, error) {
	_, receipt, _, err := visa.Split(data)
	if err != nil {
		return nil, err
	}
	switch {
	case b.Receipt.Epoch == receipt.Epoch:
		return &b.KeyEvidence, nil
	case b.VisaKeyEvidence != nil:
		return b.VisaKeyEvidence, nil
	}
	return nil, fmt.Errorf("%w: the visa lies in epoch %s, this bundle is of epoch %s", ErrHead, receipt.Epoch, b.Receipt.Epoch)
}
