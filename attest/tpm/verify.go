package tpm

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/journal"
)

// ErrOptions: the verifier was not told what it needs.
var ErrOptions = errors.New("TPM verification")

// Options say what a relying party accepts. Roots, a nonce or WithoutNonce, and ActivatedAKs or Activators are needed.
type Options struct {
	Roots *Roots
	// Now is the moment to decide for: of the certificate's validity and of MaxAge. Zero: the present.
	Now time.Time
	// Nonce that the relying party chose, MinNonceSize to MaxNonceSize bytes.
	Nonce []byte
	// WithoutNonce takes documents made for a journal, which answer nobody: they prove what the key is, not that it is
	// there now. Nonce must be empty then, and so must the document's.
	WithoutNonce bool
	// MaxAge bounds the time that the enclave asserts, to both sides; 0: it is not looked at.
	MaxAge time.Duration
	// ActivatedAKs are names of AKs whose activation the relying party has run itself. A name says nothing of the EK: whose
	// certificate the bundle shows is known only by the record of an Activator.
	ActivatedAKs [][]byte
	// Activators are trusted to have run it.
	Activators []*ecdsa.PublicKey
	// Golden are the reference values: the quoted PCRs must be those of one of its sets. Nil: PCRs are reported and not
	// judged.
	Golden *golden.List
	// EventLog is the firmware's log, TCG PC Client format; its replay must give the quoted PCRs. Empty: none.
	EventLog []byte
}

// Result is what a verified bundle says.
type Result struct {
	Key           *journal.Key // of the enclave, in the TPM
	Nonce         []byte
	Epoch         journal.EpochID
	Configuration journal.Hash
	Time          time.Time // the enclave's clock: asserted, not proven
	PCRs          []PCR

	EKCertificate   *x509.Certificate // nil where nothing ties it to the AK: by ActivatedAKs alone, and in a result of Claimed
	TPM             TPMName           // as the EK certificate says; empty where it says nothing, or there is none
	AKName          []byte
	ResetCount      uint32 // TPM resets, that is power cycles, since the TPM was cleared
	RestartCount    uint32 // resumes since the last reset
	Clock           uint64 // milliseconds that the TPM was powered since it was cleared
	Safe            bool   // the clock has not gone back
	FirmwareVersion uint64
	Golden          *golden.Set // that allows the PCRs; nil where Options have no list
}

// Verify checks a document of the tier tpm. A refusal is an *attest.Refusal that names the check; without an error
// everything in the result holds, as far as the package comment says.
func Verify(document []byte, o Options) (*Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	b, err := Decode(document)
	if err != nil {
		return nil, err
	}
	if err := o.fresh(b); err != nil {
		return nil, err
	}
	r, err := b.consistent()
	if err != nil {
		return nil, err
	}
	certificate, err := o.Roots.Endorse(b.EKCertificate, b.Intermediates, o.now())
	if err != nil {
		return nil, err
	}
	tied, err := o.activated(b, r.AKName)
	if err != nil {
		return nil, err
	}
	if tied { // else it may be any certificate of any TPM: they are no secrets
		r.EKCertificate = certificate
		if name, err := tpmName(certificate); err == nil {
			r.TPM = *name
		}
	}
	if r.Golden, err = o.matchGolden(b.PCRs); err != nil {
		return nil, err
	}
	if err := o.explained(b); err != nil {
		return nil, err
	}
	return r, nil
}

// Claimed reads a document and checks that it is consistent: that one AK certified the key and quoted the PCRs for this
// very bundle. It trusts nobody: whether that AK lies in a TPM is not looked at, and anyone can make such a document
// about a key of his own. It is for those who know the key already, by its hash.
func Claimed(document []byte) (*Result, error) {
	b, err := Decode(document)
	if err != nil {
		return nil, err
	}
	return b.consistent()
}

// consistent does the checks that need nothing but the bundle.
func (b *Bundle) consistent() (*Result, error) {
	ak, err := ParsePublic(b.AKPublic, AttestationKey)
	if err != nil {
		return nil, err
	}
	signing, err := ParsePublic(b.KeyPublic, SigningKey)
	if err != nil {
		return nil, err
	}
	certified, err := b.certified(ak, signing)
	if err != nil {
		return nil, err
	}
	quoted, err := b.quoted(ak, certified)
	if err != nil {
		return nil, err
	}
	key, err := journal.NewKey(signing.Key)
	if err != nil {
		return nil, attest.Refuse(CheckKey, "%w", err)
	}
	return &Result{
		Key: key, Nonce: b.Nonce, Epoch: b.Epoch, Configuration: b.Configuration, Time: time.Unix(0, b.Time), PCRs: b.PCRs, AKName: ak.Name,
		ResetCount: quoted.ClockInfo.ResetCount, RestartCount: quoted.ClockInfo.RestartCount, Clock: quoted.ClockInfo.Clock,
		Safe: bool(quoted.ClockInfo.Safe), FirmwareVersion: quoted.FirmwareVersion,
	}, nil
}

func (o *Options) check() error {
	switch {
	case o.Roots == nil || o.Roots.count == 0:
		return fmt.Errorf("%w: no roots of TPM vendors", ErrOptions)
	case o.WithoutNonce && len(o.Nonce) > 0:
		return fmt.Errorf("%w: a nonce, and none", ErrOptions)
	case !o.WithoutNonce && (len(o.Nonce) < MinNonceSize || len(o.Nonce) > MaxNonceSize):
		return fmt.Errorf("%w: a nonce of %d bytes, use %d to %d", ErrOptions, len(o.Nonce), MinNonceSize, MaxNonceSize)
	case len(o.ActivatedAKs) == 0 && len(o.Activators) == 0:
		return fmt.Errorf("%w: neither an AK that you have activated nor somebody who is trusted to have done so", ErrOptions)
	}
	return nil
}

func (o *Options) now() time.Time {
	if o.Now.IsZero() {
		return time.Now()
	}
	return o.Now
}

// fresh compares nonce and time. What the bundle says here is proven by the two signatures later.
func (o *Options) fresh(b *Bundle) error {
	if subtle.ConstantTimeCompare(b.Nonce, o.Nonce) != 1 {
		if len(b.Nonce) == 0 {
			return attest.Refuse(CheckNonce, "the bundle was made for a journal, without one")
		}
		return attest.Refuse(CheckNonce, "the bundle has another one (%d bytes), so it was made for another verifier or at another time", len(b.Nonce))
	}
	if o.MaxAge > 0 {
		if age := o.now().Sub(time.Unix(0, b.Time)); age > o.MaxAge || age < -o.MaxAge {
			return attest.Refuse(CheckFreshness, "its time is %s from now, at most %s is accepted", age.Round(time.Second), o.MaxAge)
		}
	}
	return nil
}

// tpmGenerated starts every structure that a TPM signs and nothing else that a restricted key signs (Part 2, 6.2).
const tpmGenerated = 0xff544347

// attested verifies a TPMS_ATTEST: the AK's signature over it, that a TPM made it, its type, and that it is about this
// bundle.
func (b *Bundle) attested(attest, signature []byte, ak *Public, kind tpm2.TPMISTAttest) (*tpm2.TPMSAttest, error) {
	digest := sha256.Sum256(attest)
	if !verifySignature(ak.Key, digest[:], signature) {
		return nil, errors.New("its signature by the AK is wrong")
	}
	if len(attest) < 4 || binary.BigEndian.Uint32(attest) != tpmGenerated {
		return nil, errors.New("no TPM made it: the magic is missing")
	}
	a, err := unmarshal[tpm2.TPMSAttest](attest)
	if err != nil {
		return nil, err
	}
	if a.Type != kind {
		return nil, fmt.Errorf("it is of type %#x, expected %#x", uint16(a.Type), uint16(kind))
	}
	qualifying := b.Qualifying()
	if subtle.ConstantTimeCompare(a.ExtraData.Buffer, qualifying[:]) != 1 {
		return nil, errors.New("it was made for another bundle: its extra data differs")
	}
	if subtle.ConstantTimeCompare(a.QualifiedSigner.Buffer, endorsementPrimary(ak.Name)) != 1 {
		return nil, errors.New("the AK is no primary key of the endorsement hierarchy: counters would be obfuscated")
	}
	return a, nil
}

// endorsementPrimary is the qualified name of a primary key of the endorsement hierarchy (Part 1, 16).
func endorsementPrimary(name []byte) []byte {
	return nameOf(append(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHEndorsement)), name...))
}

func (b *Bundle) certified(ak, signing *Public) (*tpm2.TPMSAttest, error) {
	a, err := b.attested(b.Certified, b.CertifiedSignature, ak, tpm2.TPMSTAttestCertify)
	if err != nil {
		return nil, attest.Refuse(CheckCertified, "%w", err)
	}
	info, err := a.Attested.Certify()
	if err != nil {
		return nil, attest.Refuse(CheckCertified, "%w", err)
	}
	if subtle.ConstantTimeCompare(info.Name.Buffer, signing.Name) != 1 {
		return nil, attest.Refuse(CheckCertified, "it is about another key")
	}
	return a, nil
}

func (b *Bundle) quoted(ak *Public, certified *tpm2.TPMSAttest) (*tpm2.TPMSAttest, error) {
	a, err := b.attested(b.Quoted, b.QuotedSignature, ak, tpm2.TPMSTAttestQuote)
	if err != nil {
		return nil, attest.Refuse(CheckQuote, "%w", err)
	}
	q, err := a.Attested.Quote()
	if err != nil {
		return nil, attest.Refuse(CheckQuote, "%w", err)
	}
	if err := checkSelection(q.PCRSelect, b.PCRs); err != nil {
		return nil, err
	}
	h := sha256.New()
	for _, p := range b.PCRs {
		h.Write(p.Value[:])
	}
	if subtle.ConstantTimeCompare(h.Sum(nil), q.PCRDigest.Buffer) != 1 {
		return nil, attest.Refuse(CheckPCRs, "their hash is not the quoted one")
	}
	c, d := certified.ClockInfo, a.ClockInfo
	if c.ResetCount != d.ResetCount || c.RestartCount != d.RestartCount || c.Clock > d.Clock {
		return nil, attest.Refuse(CheckQuote, "the TPM was reset between certification and quote")
	}
	return a, nil
}

// checkSelection refuses everything but one selection of the SHA-256 bank that names exactly these PCRs, at least one. A
// second selection could hide another bank, and a quote of nothing is true of every machine.
func checkSelection(s tpm2.TPMLPCRSelection, pcrs []PCR) error {
	if len(s.PCRSelections) != 1 {
		return attest.Refuse(CheckQuote, "it selects %d banks, expected one", len(s.PCRSelections))
	}
	selection := s.PCRSelections[0]
	if selection.Hash != tpm2.TPMAlgSHA256 {
		return attest.Refuse(CheckQuote, "it is of bank %#x, expected SHA-256", uint16(selection.Hash))
	}
	selected := 0
	for i, bits := range selection.PCRSelect {
		for bit := range 8 {
			if bits&(1<<bit) == 0 {
				continue
			}
			if selected >= len(pcrs) || pcrs[selected].Index != uint64(8*i+bit) {
				return attest.Refuse(CheckPCRs, "PCR %d is quoted, and its value is missing", 8*i+bit)
			}
			selected++
		}
	}
	if selected == 0 {
		return attest.Refuse(CheckQuote, "it is over no PCR, which is true of every machine")
	}
	if selected != len(pcrs) {
		return attest.Refuse(CheckPCRs, "PCR %d is not quoted", pcrs[selected].Index)
	}
	return nil
}

// explained replays the event log, where there is one.
func (o *Options) explained(b *Bundle) error {
	if len(o.EventLog) == 0 {
		return nil
	}
	return replay(o.EventLog, b.PCRs)
}
