package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// SecretSize of a challenge, in bytes: at most the size of the EK's name algorithm.
const SecretSize = 32

// Challenge is one run of credential activation (Part 1, 24): a secret that only the TPM with this EK can decrypt, and only
// for the AK with this name. Send Credential and Secret to the machine, and give Finish what TPM2_ActivateCredential
// returns there.
type Challenge struct {
	Credential []byte // TPMS_ID_OBJECT
	Secret     []byte // TPMS_ENC_SECRET's content

	certificate []byte
	name        []byte
	expected    []byte // nil once it was compared
	answered    bool   // rightly
}

// Identity is what a machine says of its TPM before it is believed.
type Identity struct {
	EKCertificate []byte   `cbor:"1,keyasint"`           // DER
	AKPublic      []byte   `cbor:"2,keyasint"`           // TPMT_PUBLIC
	Intermediates [][]byte `cbor:"3,keyasint,omitempty"` // DER, at most MaxIntermediates: between EK certificate and root
}

// NewChallenge checks the EK certificate against roots at a time and the AK's attributes, and makes a challenge for both.
func NewChallenge(id Identity, roots *Roots, at time.Time) (*Challenge, error) {
	certificate, err := roots.Endorse(id.EKCertificate, id.Intermediates, at)
	if err != nil {
		return nil, err
	}
	ak, err := ParsePublic(id.AKPublic, AttestationKey)
	if err != nil {
		return nil, err
	}
	ek, err := ekPublic(certificate)
	if err != nil {
		return nil, err
	}
	key, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return nil, attest.Refuse(CheckEndorsement, "%w", err)
	}
	c := &Challenge{certificate: id.EKCertificate, name: ak.Name, expected: make([]byte, SecretSize)}
	rand.Read(c.expected) // never fails (crypto/rand)
	if c.Credential, c.Secret, err = tpm2.CreateCredential(rand.Reader, key, ak.Name, c.expected); err != nil {
		return nil, fmt.Errorf("make credential: %w", err)
	}
	return c, nil
}

// Finish compares the answer. Without an error the AK lies in the TPM of the EK. A challenge is used once.
func (c *Challenge) Finish(answer []byte) error {
	expected := c.expected
	c.expected = nil
	if expected == nil || subtle.ConstantTimeCompare(answer, expected) != 1 {
		return attest.Refuse(CheckActivation, "the answer to the challenge is wrong: the AK is not of this TPM")
	}
	c.answered = true
	return nil
}

// Activation is the record that credential activation succeeded, signed by the key of whoever ran it, so that others who
// trust that key need not run it again. Deterministic CBOR.
type Activation struct {
	Certificate [32]byte `cbor:"1,keyasint"` // SHA-256 of the EK certificate
	AKName      []byte   `cbor:"2,keyasint"`
	Time        int64    `cbor:"3,keyasint"` // seconds since the Unix epoch
	Signer      []byte   `cbor:"4,keyasint"` // PKIX DER of the P-256 key that signed
	Signature   []byte   `cbor:"5,keyasint"` // r || s over SHA-256 of activationDomain and the map with an empty signature
}

const (
	activationDomain = "raypher TPM activation 1\x00"
	nameSize         = 2 + sha256.Size
)

func (a Activation) digest() [32]byte {
	a.Signature = []byte{}
	return sha256.Sum256(append([]byte(activationDomain), strictcbor.Encode(&a)...))
}

// Record returns the encoded record of a challenge that was finished without an error.
func (c *Challenge) Record(key *ecdsa.PrivateKey, at time.Time) ([]byte, error) {
	if !c.answered {
		return nil, attest.Refuse(CheckActivation, "the challenge was not answered rightly")
	}
	signer, err := journal.NewKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("key of the activation record: %w", err)
	}
	a := Activation{Certificate: sha256.Sum256(c.certificate), AKName: c.name, Time: at.Unix(), Signer: signer.PKIX()}
	digest := a.digest()
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("sign activation record: %w", err)
	}
	a.Signature = make([]byte, SignatureSize)
	r.FillBytes(a.Signature[:32])
	s.FillBytes(a.Signature[32:])
	return strictcbor.Encode(&a), nil
}

// ParseActivation reads a record and verifies its signature by the key that it names. Whether that key is trusted is another
// question.
func ParseActivation(data []byte) (*Activation, *ecdsa.PublicKey, error) {
	var a Activation
	if err := strictcbor.Decode(data, MaxStructureSize, &a); err != nil {
		return nil, nil, attest.Refuse(CheckActivation, "record: %w", err)
	}
	if len(a.AKName) != nameSize {
		return nil, nil, attest.Refuse(CheckActivation, "record: a name of %d bytes", len(a.AKName))
	}
	parsed, err := x509.ParsePKIXPublicKey(a.Signer)
	key, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, nil, attest.Refuse(CheckActivation, "record: not signed by a P-256 key")
	}
	digest := a.digest()
	if !verifySignature(key, digest[:], a.Signature) {
		return nil, nil, attest.Refuse(CheckActivation, "record: its signature is wrong")
	}
	return &a, key, nil
}

// activated decides whether the bundle's AK lies in a TPM, by one of the ways that the options trust. tied: in the one of the bundle's EK
// certificate, which only a record says.
func (o *Options) activated(b *Bundle, akName []byte) (tied bool, err error) {
	err = o.recorded(b, akName)
	for _, name := range o.ActivatedAKs {
		if err != nil && bytes.Equal(name, akName) {
			return false, nil
		}
	}
	return err == nil, err
}

// recorded refuses a bundle without the record of an activator that is trusted about its EK and AK.
func (o *Options) recorded(b *Bundle, akName []byte) error {
	if len(b.Activation) == 0 {
		return attest.Refuse(CheckActivation, "the bundle has no record of a credential activation, and its AK is not among those that you have activated")
	}
	a, signer, err := ParseActivation(b.Activation)
	if err != nil {
		return err
	}
	if a.Certificate != sha256.Sum256(b.EKCertificate) || !bytes.Equal(a.AKName, akName) {
		return attest.Refuse(CheckActivation, "the record is about another EK or AK")
	}
	for _, trusted := range o.Activators {
		if trusted.Equal(signer) {
			return nil
		}
	}
	return attest.Refuse(CheckActivation, "the record is signed by a key that is not trusted to have run the activation")
}

func verifySignature(key *ecdsa.PublicKey, digest, signature []byte) bool {
	if len(signature) != SignatureSize {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(key, digest, r, s)
}

// Message is what the machine gets: the challenge without its answer. Deterministic CBOR.
type Message struct {
	Credential []byte `cbor:"1,keyasint"` // TPMS_ID_OBJECT
	Secret     []byte `cbor:"2,keyasint"` // TPMS_ENC_SECRET's content
}

// Message returns the part of a challenge that goes to the machine.
func (c *Challenge) Message() []byte {
	return strictcbor.Encode(&Message{c.Credential, c.Secret})
}

// ParseMessage reads what Message made.
func ParseMessage(data []byte) (*Message, error) {
	var m Message
	if err := strictcbor.Decode(data, MaxStructureSize, &m); err != nil {
		return nil, attest.Refuse(CheckFormat, "challenge: %w", err)
	}
	return &m, nil
}

// kept is a challenge between its two steps. Whoever reads it can answer it.
type kept struct {
	Certificate []byte `cbor:"1,keyasint"`
	Name        []byte `cbor:"2,keyasint"`
	Expected    []byte `cbor:"3,keyasint"`
}

// Keep returns a challenge that waits for its answer, for a verifier that ends in between: a secret.
func (c *Challenge) Keep() []byte {
	return strictcbor.Encode(&kept{c.certificate, c.name, c.expected})
}

// Resume reads what Keep made. The caller removes it, so that it is used once.
func Resume(data []byte) (*Challenge, error) {
	var k kept
	if err := strictcbor.Decode(data, 2*MaxCertificateSize, &k); err != nil {
		return nil, attest.Refuse(CheckFormat, "kept challenge: %w", err)
	}
	if len(k.Expected) != SecretSize || len(k.Name) != nameSize {
		return nil, attest.Refuse(CheckFormat, "kept challenge: it was answered already, or is none")
	}
	return &Challenge{certificate: k.Certificate, name: k.Name, expected: k.Expected}, nil
}

// Encode returns the identity as CBOR.
func (id *Identity) Encode() []byte { return strictcbor.Encode(id) }

// ParseIdentity reads what Encode made. Nothing that it says is verified.
func ParseIdentity(data []byte) (*Identity, error) {
	var id Identity
	if err := strictcbor.Decode(data, MaxBundleSize, &id); err != nil {
		return nil, attest.Refuse(CheckFormat, "identity: %w", err)
	}
	if err := checkIntermediates(id.Intermediates); err != nil {
		return nil, attest.Refuse(CheckFormat, "identity: %w", err)
	}
	return &id, nil
}

// AKNameSize is the size of the names in Options.ActivatedAKs, in bytes.
const AKNameSize = nameSize

// AKName returns the name of an identity's AK, after the checks of its attributes.
func (id *Identity) AKName() ([]byte, error) {
	ak, err := ParsePublic(id.AKPublic, AttestationKey)
	if err != nil {
		return nil, err
	}
	return ak.Name, nil
}
