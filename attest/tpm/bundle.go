package tpm

import (
	"crypto/sha256"
	"fmt"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// Version of the bundle format.
const Version = 1

// Bounds, in bytes.
const (
	MaxBundleSize      = journal.MaxKeyEvidenceSize
	MaxCertificateSize = 4096
	MaxStructureSize   = 1024 // of one TPM structure; a P-256 public area has 88, a quote about 130
	MaxNonceSize       = journal.MaxNonceSize
	MinNonceSize       = 8
	SignatureSize      = 64 // ECDSA on P-256: r || s, 32 bytes each, big endian
	PCRSize            = sha256.Size
	PCRCount           = 24 // PCRs of a PC client TPM
	MaxIntermediates   = 3  // certificates
)

// Bundle is the document of the tier tpm: deterministic CBOR (RFC 8949, section 4.2.1), a map with the keys below. TPM
// structures are in the TPM's own encoding, without a size in front.
type Bundle struct {
	Version       uint64          `cbor:"1,keyasint"`
	EKCertificate []byte          `cbor:"2,keyasint"` // X.509 DER, from the TPM's NV memory
	AKPublic      []byte          `cbor:"3,keyasint"` // TPMT_PUBLIC of the attestation key
	KeyPublic     []byte          `cbor:"4,keyasint"` // TPMT_PUBLIC of the signing key
	Epoch         journal.EpochID `cbor:"5,keyasint"`
	Configuration journal.Hash    `cbor:"6,keyasint"` // hash of the enclave's start configuration
	Nonce         []byte          `cbor:"7,keyasint"` // of the verifier; empty in a journal's entry 0
	Time          int64           `cbor:"8,keyasint"` // nanoseconds since the Unix epoch, the enclave's clock
	Activation    []byte          `cbor:"9,keyasint"` // encoded Activation, or empty

	Certified          []byte `cbor:"10,keyasint"` // TPMS_ATTEST of TPM2_Certify
	CertifiedSignature []byte `cbor:"11,keyasint"`
	Quoted             []byte `cbor:"12,keyasint"` // TPMS_ATTEST of TPM2_Quote
	QuotedSignature    []byte `cbor:"13,keyasint"`
	PCRs               []PCR  `cbor:"14,keyasint"` // ascending, each once: what the quote's digest is of

	Intermediates [][]byte `cbor:"15,keyasint,omitempty"` // X.509 DER: between EK certificate and root, for verifiers that lack them
}

// PCR is one register of the SHA-256 bank.
type PCR struct {
	Index uint64   `cbor:"1,keyasint"`
	Value [32]byte `cbor:"2,keyasint"`
}

// Encode returns the bundle as CBOR. Absent byte strings are encoded as empty ones.
func (b *Bundle) Encode() ([]byte, error) {
	c := *b
	for _, field := range c.byteStrings() {
		if *field == nil {
			*field = []byte{}
		}
	}
	if err := c.check(); err != nil {
		return nil, attest.Refuse(CheckFormat, "%w", err)
	}
	data := strictcbor.Encode(&c)
	if len(data) > MaxBundleSize {
		return nil, attest.Refuse(CheckFormat, "%d bytes, the limit is %d", len(data), MaxBundleSize)
	}
	return data, nil
}

// Decode reads a bundle and checks its form and sizes; nothing that it says is verified. Refusals name CheckFormat.
func Decode(data []byte) (*Bundle, error) {
	var b Bundle
	if err := strictcbor.Decode(data, MaxBundleSize, &b); err != nil {
		return nil, attest.Refuse(CheckFormat, "%w", err)
	}
	if err := b.check(); err != nil {
		return nil, attest.Refuse(CheckFormat, "%w", err)
	}
	return &b, nil
}

func (b *Bundle) byteStrings() []*[]byte {
	return []*[]byte{
		&b.EKCertificate, &b.AKPublic, &b.KeyPublic, &b.Nonce, &b.Activation,
		&b.Certified, &b.CertifiedSignature, &b.Quoted, &b.QuotedSignature,
	}
}

func (b *Bundle) check() error {
	if b.Version != Version {
		return fmt.Errorf("version %d, this verifier knows %d", b.Version, Version)
	}
	for _, c := range []struct {
		name     string
		value    []byte
		min, max int
	}{
		{"EK certificate", b.EKCertificate, 1, MaxCertificateSize},
		{"AK", b.AKPublic, 1, MaxStructureSize},
		{"signing key", b.KeyPublic, 1, MaxStructureSize},
		{"nonce", b.Nonce, 0, MaxNonceSize},
		{"activation", b.Activation, 0, MaxStructureSize},
		{"certification", b.Certified, 1, MaxStructureSize},
		{"signature of the certification", b.CertifiedSignature, SignatureSize, SignatureSize},
		{"quote", b.Quoted, 1, MaxStructureSize},
		{"signature of the quote", b.QuotedSignature, SignatureSize, SignatureSize},
	} {
		if c.value == nil || len(c.value) < c.min || len(c.value) > c.max {
			return fmt.Errorf("%s of %d bytes, expected %d to %d", c.name, len(c.value), c.min, c.max)
		}
	}
	if err := checkIntermediates(b.Intermediates); err != nil {
		return err
	}
	if len(b.PCRs) > PCRCount {
		return fmt.Errorf("%d PCRs, at most %d", len(b.PCRs), PCRCount)
	}
	for i, p := range b.PCRs {
		if p.Index >= PCRCount || i > 0 && p.Index <= b.PCRs[i-1].Index {
			return fmt.Errorf("PCR %d out of order or beyond %d", p.Index, PCRCount-1)
		}
	}
	return nil
}

func checkIntermediates(certificates [][]byte) error {
	if len(certificates) > MaxIntermediates {
		return fmt.Errorf("%d intermediate certificates, at most %d", len(certificates), MaxIntermediates)
	}
	for _, c := range certificates {
		if len(c) == 0 || len(c) > MaxCertificateSize {
			return fmt.Errorf("intermediate certificate of %d bytes, expected 1 to %d", len(c), MaxCertificateSize)
		}
	}
	return nil
}

// qualifyingDomain keeps the hash apart from everything else that is hashed for a signature.
const qualifyingDomain = "raypher TPM bundle 1\x00"

// Qualifying is the 32-byte hash that the certification and the quote must carry as extra data: of everything in the bundle
// that the TPM does not sign by itself.
func (b *Bundle) Qualifying() [32]byte {
	c := *b
	c.Certified, c.CertifiedSignature, c.Quoted, c.QuotedSignature, c.PCRs = nil, nil, nil, nil, nil
	for _, field := range c.byteStrings() {
		if *field == nil {
			*field = []byte{}
		}
	}
	h := sha256.New()
	h.Write([]byte(qualifyingDomain))
	h.Write(strictcbor.Encode(&c))
	return [32]byte(h.Sum(nil))
}
