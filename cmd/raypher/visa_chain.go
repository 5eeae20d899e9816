package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// chainFlags say how `visa verify` goes from a visa down to the hardware that holds the enclave's key.
type chainFlags struct {
	evidenceFlags
	file     string
	nonce    string
	unproven bool
}

func (f *chainFlags) add(flags *pflag.FlagSet) {
	f.evidenceFlags.add(flags)
	flags.StringVar(&f.file, "evidence", "", "what vouches for the enclave's key: a file of 'raypher evidence export EPOCH:0' or, with --evidence-nonce, of 'raypher attest fetch' (default: entry 0 of this host's journal)")
	flags.StringVar(&f.nonce, "evidence-nonce", "", "the nonce that the evidence was fetched for, in hexadecimal")
	flags.BoolVar(&f.unproven, "allow-unproven-tier", false, "take a tier above software on the word of the enclave key alone, without evidence")
}

// asked says whether the evidence behind the key is wanted.
func (f *chainFlags) asked(flags *pflag.FlagSet) bool {
	for _, name := range []string{"root", "activated", "activator", "golden", "golden-key", "golden-unsigned", "golden-state", "evidence", "evidence-nonce"} {
		if flags.Changed(name) {
			return true
		}
	}
	return false
}

// provenVisa is a visa that holds, and where its key and tier come from.
type provenVisa struct {
	claims *visa.Claims
	source string // of the enclave's key
	golden string // set that the measurements match
	made   string // time of the evidence, RFC 3339; empty: none was verified
}

// verify checks the whole chain of a visa.
func (f *chainFlags) verify(data []byte, journals *journalFlags, flags *pflag.FlagSet, v visa.Options) (*provenVisa, error) {
	nonce, err := hex.DecodeString(f.nonce)
	if err != nil || flags.Changed("evidence-nonce") && len(nonce) == 0 {
		return nil, fmt.Errorf("--evidence-nonce %q: expected bytes in hexadecimal", f.nonce)
	}
	_, receipt, _, err := visa.Split(data)
	if err != nil {
		return nil, err
	}
	ev, source, err := f.find(data, journals, receipt.Epoch, nonce)
	if err != nil {
		return nil, err
	}
	o := evidence.Options{Keys: v.Keys, AllowSoftware: v.AllowSoftware}
	if o.Verifiers, err = f.hardware(flags, ev.Tier, nonce, v.Now); err != nil {
		return nil, err
	}
	p, err := evidence.VerifyVisa(data, ev, v, o)
	if err != nil {
		return nil, err
	}
	return &provenVisa{
		claims: p.Claims, golden: p.KeyTrust.Golden, made: time.Unix(0, p.KeyTrust.Time).UTC().Format(time.RFC3339),
		source: fmt.Sprintf("proven by evidence of tier %s, from %s", p.KeyTrust.Tier, source),
	}, nil
}

// find gets the evidence that the visa leads to: the named file, or entry 0 of its epoch in this host's journals.
func (f *chainFlags) find(data []byte, journals *journalFlags, epoch journal.EpochID, nonce []byte) (*journal.KeyEvidence, string, error) {
	if f.file == "" {
		if len(nonce) > 0 {
			return nil, "", errors.New("--evidence-nonce: name the fetched file with --evidence")
		}
		ev, err := storedEvidence(journals, epoch)
		if err != nil {
			return nil, "", fmt.Errorf("no evidence of the enclave's key: %w: get it where the visa was granted, with raypher evidence export %s:0 -o FILE, and name it with --evidence", err, epoch)
		}
		return ev, "entry 0 of its epoch in this host's journal", nil
	}
	text, err := readBounded(f.file, evidence.MaxSize)
	if err != nil {
		return nil, "", fmt.Errorf("--evidence: %w", err)
	}
	bundle, err := evidence.Decode(text)
	if err != nil { // then it is the document itself
		if len(nonce) == 0 {
			return nil, "", fmt.Errorf("--evidence %s: no bundle of 'raypher evidence export'; what 'raypher attest fetch' wrote needs --evidence-nonce", f.file)
		}
		return &journal.KeyEvidence{Tier: tierOf(text), Document: text}, "a document fetched for the nonce", nil
	}
	if len(nonce) > 0 {
		return nil, "", fmt.Errorf("--evidence-nonce: %s is of a journal, made for no nonce", f.file)
	}
	ev, err := bundle.VisaEvidence(data)
	return ev, "entry 0 of its epoch, as exported", err
}

func storedEvidence(journals *journalFlags, epoch journal.EpochID) (*journal.KeyEvidence, error) {
	if os.Geteuid() != 0 && !journals.named() {
		return nil, errors.New("this host's journals are root's")
	}
	stores, err := journals.open()
	if err != nil {
		return nil, err
	}
	for _, store := range stores {
		if store.EpochKey(epoch) == nil {
			continue
		}
		bundle, err := store.Export(epoch, 0)
		if err != nil {
			return nil, err
		}
		return &bundle.KeyEvidence, nil
	}
	return nil, fmt.Errorf("no journal here has epoch %s", epoch)
}

// hardware returns what judges evidence of a tier, at a time; a zero time is now.
func (f *chainFlags) hardware(flags *pflag.FlagSet, tier string, nonce []byte, at time.Time) (map[string]evidence.KeyVerifier, error) {
	switch tier {
	case journal.TierTPM:
		if f.root == "" {
			return nil, errors.New("--root: name the folder with the certificates of the TPM's vendor")
		}
		o, err := f.options(flags)
		if err != nil {
			return nil, err
		}
		o.Now, o.Nonce, o.WithoutNonce = at, nonce, len(nonce) == 0
		return map[string]evidence.KeyVerifier{tier: tpm.KeyVerifier{Options: o}}, nil
	case journal.TierNitro:
		v, err := f.evidenceFlags.nitro(flags, nonce, at)
		if err != nil {
			return nil, err
		}
		return map[string]evidence.KeyVerifier{tier: v}, nil
	}
	return nil, nil // software: evidence.Verify has its own, and its own leave
}
