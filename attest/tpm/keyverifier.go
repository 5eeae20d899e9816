package tpm

import (
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
)

// KeyVerifier judges the key evidence of tier tpm for package evidence. Documents in a journal were made for nobody, so its
// options usually say WithoutNonce.
type KeyVerifier struct{ Options Options }

// VerifyKey implements evidence.KeyVerifier.
func (v KeyVerifier) VerifyKey(document []byte) (*evidence.Attested, error) {
	r, err := Verify(document, v.Options)
	if err != nil {
		return nil, err
	}
	return r.attested(), nil
}

// PinnedKey takes key evidence that is consistent, whoever made it. It is for verifiers who have pinned the key
// (evidence.Options.Keys), and sound for nobody else: it says what the document claims of a key.
type PinnedKey struct{}

// VerifyKey implements evidence.KeyVerifier.
func (PinnedKey) VerifyKey(document []byte) (*evidence.Attested, error) {
	r, err := Claimed(document)
	if err != nil {
		return nil, err
	}
	return r.attested(), nil
}

func (r *Result) attested() *evidence.Attested {
	a := &evidence.Attested{
		Tier: journal.TierTPM, Key: r.Key, Epoch: r.Epoch, ConfigurationHash: r.Configuration, Nonce: r.Nonce, Time: r.Time.UnixNano(),
	}
	if r.Golden != nil {
		a.Golden = r.Golden.Name
	}
	return a
}
