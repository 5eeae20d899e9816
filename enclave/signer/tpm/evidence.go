package tpm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/journal"
)

// ActivationFile is the name of the activation record in the state folder; evidence carries it.
const ActivationFile = "tpm.activation"

// quoteAttempts bounds how often PCRs may change between reading and quoting.
const quoteAttempts = 5

// Evidence implements signer.Signer: a bundle of package attest/tpm. It takes the time of an AK, two signatures and a dozen of
// small commands, a second or so on slow chips, during which nothing else is signed.
func (k *Key) Evidence(ctx context.Context, nonce []byte, binding signer.Binding) (*journal.KeyEvidence, error) {
	return k.evidenceOf(ctx, k.withKey, k.area, nonce, binding)
}

// evidenceOf makes the bundle of the key that with loads.
func (k *Key) evidenceOf(ctx context.Context, with using, area, nonce []byte, binding signer.Binding) (*journal.KeyEvidence, error) {
	if len(nonce) > signer.MaxNonce {
		return nil, fmt.Errorf("evidence: nonce of %d bytes: %w", len(nonce), signer.ErrInput)
	}
	if k.closed.Load() {
		return nil, fmt.Errorf("evidence: %w", signer.ErrClosed)
	}
	b := &attest.Bundle{
		Version: attest.Version, KeyPublic: area, Epoch: binding.Epoch, Configuration: binding.Configuration,
		Nonce: nonce, Time: time.Now().UnixNano(),
	}
	err := k.owner.do(ctx, func(tpm transport.TPM) error {
		return with(tpm, func(l *loaded) error { return k.fill(tpm, l, b) })
	})
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", deviceError(err))
	}
	document, err := b.Encode()
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return &journal.KeyEvidence{Tier: journal.TierTPM, Document: document}, nil
}

// fill adds what the TPM says to the bundle.
func (k *Key) fill(tpm transport.TPM, l *loaded, b *attest.Bundle) (err error) {
	if b.EKCertificate, err = k.ekCertificate(tpm); err != nil {
		return err
	}
	b.Intermediates = k.configuration.Intermediates
	ak, err := makeAK(tpm)
	if err != nil {
		return err
	}
	defer flush(tpm, ak.handle)
	b.AKPublic = ak.area
	if b.Activation, err = k.activation(b.EKCertificate, ak.name.Buffer); err != nil {
		return err
	}
	qualifying := b.Qualifying()
	certified, err := execute(tpm, tpm2.Certify{
		ObjectHandle:   l.auth(),
		SignHandle:     ak.auth(tpm2.PasswordAuth(nil)),
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	})
	if err != nil {
		return fmt.Errorf("certify the signing key: %w", err)
	}
	b.Certified = certified.CertifyInfo.Bytes()
	if b.CertifiedSignature, err = rawSignature(&certified.Signature); err != nil {
		return fmt.Errorf("certify the signing key: %w", err)
	}
	return k.quote(tpm, l, ak, b)
}

// quote reads the PCRs and has them quoted, again when one was extended in between.
func (k *Key) quote(tpm transport.TPM, l *loaded, ak *attestationKey, b *attest.Bundle) (err error) {
	qualifying := b.Qualifying()
	selected := k.configuration.PCRs
	if len(selected) == 0 {
		selected = DefaultPCRs
	}
	for range quoteAttempts {
		if b.PCRs, err = readPCRs(tpm, selected); err != nil {
			return err
		}
		quoted, err := execute(tpm, tpm2.Quote{
			SignHandle:     ak.auth(l.session),
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      selection(selected),
		})
		if err != nil {
			return fmt.Errorf("quote: %w", err)
		}
		b.Quoted = quoted.Quoted.Bytes()
		if b.QuotedSignature, err = rawSignature(&quoted.Signature); err != nil {
			return fmt.Errorf("quote: %w", err)
		}
		same, err := quoteMatches(quoted, b.PCRs)
		if err != nil || same {
			return err
		}
	}
	return fmt.Errorf("quote: a PCR changed %d times while it was being quoted: try again", quoteAttempts)
}

func quoteMatches(quoted *tpm2.QuoteResponse, pcrs []attest.PCR) (bool, error) {
	a, err := quoted.Quoted.Contents()
	if err != nil {
		return false, fmt.Errorf("quote: %w", err)
	}
	q, err := a.Attested.Quote()
	if err != nil {
		return false, fmt.Errorf("quote: %w", err)
	}
	h := sha256.New()
	for _, p := range pcrs {
		h.Write(p.Value[:])
	}
	return string(h.Sum(nil)) == string(q.PCRDigest.Buffer), nil
}

func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)},
	}}
}

// readPCRs reads the SHA-256 bank, eight registers at a time, which is as many as one answer holds.
func readPCRs(tpm transport.TPM, pcrs []uint) ([]attest.PCR, error) {
	const perCommand = 8
	var out []attest.PCR
	for len(pcrs) > 0 {
		some := pcrs[:min(perCommand, len(pcrs))]
		response, err := execute(tpm, tpm2.PCRRead{PCRSelectionIn: selection(some)})
		if err != nil {
			return nil, fmt.Errorf("read PCRs: %w", err)
		}
		if len(response.PCRValues.Digests) != len(some) {
			return nil, errors.New("read PCRs: the TPM has no SHA-256 bank: switch it on in the firmware's setup, or with tpm2_pcrallocate")
		}
		for i, index := range some {
			value := response.PCRValues.Digests[i].Buffer
			if len(value) != attest.PCRSize {
				return nil, fmt.Errorf("read PCRs: PCR %d has %d bytes", index, len(value))
			}
			out = append(out, attest.PCR{Index: uint64(index), Value: [32]byte(value)})
		}
		pcrs = pcrs[len(some):]
	}
	return out, nil
}

// attestationKey is the AK in the TPM.
type attestationKey struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	area   []byte
}

func (a *attestationKey) auth(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: a.handle, Name: a.name, Auth: s}
}

// akUnique makes the AK another primary key than those that other software derives from a similar template.
var akUnique = sha256.Sum256([]byte("raypher attestation key 1"))

// makeAK makes the attestation key: a primary key of the endorsement hierarchy, so it is the same each time, needs no file,
// and may say the true reset counters and firmware version, which keys of other hierarchies obfuscate (Part 1, 36.7).
func makeAK(tpm transport.TPM) (*attestationKey, error) {
	template := tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true, NoDA: true,
			Restricted: true, // signs only what the TPM itself made
		},
		Parameters: p256Parameters(),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: akUnique[:]}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		}),
	}
	response, err := execute(tpm, tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	})
	if err != nil {
		return nil, fmt.Errorf("make attestation key: %w", err)
	}
	return &attestationKey{response.ObjectHandle, response.Name, response.OutPublic.Bytes()}, nil
}

// readNV reads an index with its own, empty password.
func readNV(tpm transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	const chunk = 512 // bytes; every TPM gives as many at once
	public, err := execute(tpm, tpm2.NVReadPublic{NVIndex: index})
	if err != nil {
		return nil, err
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	var out []byte
	for uint16(len(out)) < area.DataSize {
		response, err := execute(tpm, tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       min(chunk, area.DataSize-uint16(len(out))),
			Offset:     uint16(len(out)),
		})
		if err != nil {
			return nil, err
		}
		if len(response.Data.Buffer) == 0 {
			return nil, errors.New("the TPM returns nothing")
		}
		out = append(out, response.Data.Buffer...)
	}
	return out, nil
}

// activation is the record in the state folder, where it is about this EK and AK; one of another TPM is left out, since no
// verifier would take the bundle with it.
func (k *Key) activation(certificate, akName []byte) ([]byte, error) {
	record, err := statefile.Read(filepath.Join(k.state, ActivationFile), attest.MaxStructureSize)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("activation record: %w", err)
	}
	a, _, err := attest.ParseActivation(record)
	if err != nil || a.Certificate != sha256.Sum256(certificate) || string(a.AKName) != string(akName) {
		return nil, nil
	}
	return record, nil
}
