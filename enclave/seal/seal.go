// Package seal is the formats of secrets that one TPM opens only on a machine that booted what an operator approved. Package
// enclave/signer/tpm seals and opens; this package computes and checks what needs no TPM, so that policies are signed offline.
//
// A secret is sealed to a policy key, not to PCR values: the TPM opens it when the policy key has signed the values that its PCRs
// have now (TPM2_PolicyAuthorize). After an upgrade the operator signs a policy for the new values, and the same secret opens
// again without being entered anew.
//
// What the TPM enforces: the policy key's signature, the PCR values (SHA-256 bank), the name of the secret, this TPM. What the
// program that opens enforces, by what is authenticated in the file: the lowest version of a policy. Somebody who runs another
// program on a machine in a state that was once approved opens with the policy of that time. To end old policies for good, seal
// a new secret under a new name.
//
// # Policy
//
// internal/sign1 with type "application/raypher-seal-policy+cbor", ES256 by the policy key. The payload is a map: 1 name (tstr),
// 2 version (uint, at least 1), 3 PCRs (array of attest/tpm.PCR, ascending), 4 the signature for the TPM: ECDSA over
// SHA-256(approved policy || SHA-256("raypher seal 1" NUL name)), r || s.
package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/internal/sign1"
	"github.com/raypher/raypher/internal/strictcbor"
)

// Bounds.
const (
	MaxPolicy = 4096 // bytes of a signed policy
	MaxName   = 128  // bytes of a secret's name
)

const (
	policyType    = "application/raypher-seal-policy+cbor"
	refDomain     = "raypher seal 1\x00"
	signatureSize = 64
)

// Errors that callers tell apart.
var (
	ErrMalformed = errors.New("malformed")
	ErrSignature = errors.New("the policy is not signed by the policy key of the secret")
	ErrVersion   = errors.New("the policy is older than the secret allows")
	ErrPCRs      = errors.New("this machine is in no state that the policy approves")
)

// Policy approves one state of a machine for one secret.
type Policy struct {
	Name      string
	Version   uint64
	PCRs      []attest.PCR // SHA-256 bank, ascending, at least one
	Signature []byte       // for the TPM
}

type wirePolicy struct {
	Name      string       `cbor:"1,keyasint"`
	Version   uint64       `cbor:"2,keyasint"`
	PCRs      []attest.PCR `cbor:"3,keyasint"`
	Signature []byte       `cbor:"4,keyasint"`
}

// Sign approves the PCRs of p with a policy key on P-256 and returns the signed policy.
func Sign(p *Policy, key *ecdsa.PrivateKey) ([]byte, error) {
	w := wirePolicy{Name: p.Name, Version: p.Version, PCRs: p.PCRs, Signature: make([]byte, signatureSize)}
	if err := w.check(); err != nil {
		return nil, fmt.Errorf("sign policy: %w", err)
	}
	if key.Curve != elliptic.P256() {
		return nil, errors.New("sign policy: the key must be on P-256: make one with `raypher ceiling keygen --p256`")
	}
	digest := Approval(Digest(p.PCRs), p.Name)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("sign policy: %w", err)
	}
	r.FillBytes(w.Signature[:32])
	s.FillBytes(w.Signature[32:])
	signed, err := sign1.Sign(policyType, strictcbor.Encode(w), key)
	if err != nil {
		return nil, fmt.Errorf("sign policy: %w", err)
	}
	return signed, nil
}

// Open verifies a policy against a policy key (PKIX DER). Errors wrap ErrMalformed or ErrSignature.
func Open(signed, key []byte) (*Policy, error) {
	m, err := sign1.Parse(policyType, signed, MaxPolicy)
	if err != nil {
		return nil, fmt.Errorf("seal policy: %w: %w: sign one with `raypher seal policy`", ErrMalformed, err)
	}
	if err := m.Verify([][]byte{key}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	p, err := read(m.Payload)
	if err != nil {
		return nil, err
	}
	public, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	digest := Approval(Digest(p.PCRs), p.Name)
	if !ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(p.Signature[:32]), new(big.Int).SetBytes(p.Signature[32:])) {
		return nil, fmt.Errorf("%w: its signature for the TPM is wrong", ErrSignature)
	}
	return p, nil
}

// Read returns what is in a policy without verifying it: a claim.
func Read(signed []byte) (*Policy, error) {
	m, err := sign1.Parse(policyType, signed, MaxPolicy)
	if err != nil {
		return nil, fmt.Errorf("seal policy: %w: %w: sign one with `raypher seal policy`", ErrMalformed, err)
	}
	return read(m.Payload)
}

func read(payload []byte) (*Policy, error) {
	var w wirePolicy
	err := strictcbor.Decode(payload, MaxPolicy, &w)
	if err == nil {
		err = w.check()
	}
	if err != nil {
		return nil, fmt.Errorf("seal policy: %w: %w", ErrMalformed, err)
	}
	return &Policy{Name: w.Name, Version: w.Version, PCRs: w.PCRs, Signature: w.Signature}, nil
}

func (w *wirePolicy) check() error {
	switch {
	case w.Name == "" || len(w.Name) > MaxName:
		return fmt.Errorf("name: use 1 to %d bytes", MaxName)
	case w.Version == 0:
		return errors.New("version: use a number from 1")
	case len(w.PCRs) == 0 || len(w.PCRs) > attest.PCRCount:
		return fmt.Errorf("%d PCRs, use 1 to %d: a policy without PCRs would approve every state", len(w.PCRs), attest.PCRCount)
	case len(w.Signature) != signatureSize:
		return errors.New("the signature for the TPM has another size")
	}
	for i, p := range w.PCRs {
		if p.Index >= attest.PCRCount || i > 0 && p.Index <= w.PCRs[i-1].Index {
			return fmt.Errorf("PCR %d: numbers from 0 to %d, ascending", p.Index, attest.PCRCount-1)
		}
	}
	return nil
}

// Selection is the PCRs in the TPM's form, SHA-256 bank.
func Selection(pcrs []attest.PCR) tpm2.TPMLPCRSelection {
	numbers := make([]uint, len(pcrs))
	for i, p := range pcrs {
		numbers[i] = uint(p.Index)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(numbers...)}}}
}

// PCRDigest is the hash of the values one after the other.
func PCRDigest(pcrs []attest.PCR) [32]byte {
	h := sha256.New()
	for _, p := range pcrs {
		h.Write(p.Value[:])
	}
	return [32]byte(h.Sum(nil))
}

// Digest is the policy that TPM2_PolicyPCR makes of the values (Part 3, 23.7).
func Digest(pcrs []attest.PCR) [32]byte {
	values := PCRDigest(pcrs)
	return extend([32]byte{}, code(tpm2.TPMCCPolicyPCR), tpm2.Marshal(Selection(pcrs)), values[:])
}

// Ref is what an approval is for besides the values: the secret's name.
func Ref(name string) [32]byte { return sha256.Sum256([]byte(refDomain + name)) }

// Approval is the digest that the policy key signs for TPM2_PolicyAuthorize (Part 3, 23.16).
func Approval(policy [32]byte, name string) [32]byte {
	ref := Ref(name)
	return sha256.Sum256(append(policy[:], ref[:]...))
}

// ObjectPolicy is the policy that the sealed object has for good: an approval by this key for this name.
func ObjectPolicy(key []byte, name string) ([32]byte, error) {
	area, err := KeyArea(key)
	if err != nil {
		return [32]byte{}, err
	}
	keyName, err := tpm2.ObjectName(area)
	if err != nil {
		return [32]byte{}, err
	}
	ref := Ref(name)
	authorized := extend([32]byte{}, code(tpm2.TPMCCPolicyAuthorize), keyName.Buffer)
	return extend(authorized, ref[:]), nil
}

// extend is how TPMs chain policies: the hash of what was and what comes.
func extend(policy [32]byte, parts ...[]byte) [32]byte {
	return sha256.Sum256(append(policy[:], bytes.Join(parts, nil)...))
}

func code(c tpm2.TPMCC) []byte { return binary.BigEndian.AppendUint32(nil, uint32(c)) }

func parseKey(der []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("policy key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("policy key: use ECDSA on P-256: make one with `raypher ceiling keygen --p256`")
	}
	return key, nil
}

// KeyArea is the policy key (PKIX DER) as a TPM loads it to verify signatures.
func KeyArea(der []byte) (*tpm2.TPMTPublic, error) {
	key, err := parseKey(der)
	if err != nil {
		return nil, err
	}
	point, err := key.Bytes() // SEC 1, section 2.3.3: 4, x, y
	if err != nil {
		return nil, fmt.Errorf("policy key: %w", err)
	}
	return &tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			CurveID: tpm2.TPMECCNistP256,
			KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	}, nil
}
