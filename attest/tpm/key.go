package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/attest"
)

// Role is what a key in a TPM is for; each has its own attributes, and none may stand in for the other. A restricted key
// signs only what the TPM itself made, an unrestricted one signs any digest, also that of a forged quote.
type Role int

// The roles.
const (
	AttestationKey Role = iota // restricted
	SigningKey                 // unrestricted
)

func (r Role) String() string {
	if r == AttestationKey {
		return "attestation key"
	}
	return "signing key"
}

// Public is a P-256 signing key in a TPM, as its public area describes it.
type Public struct {
	Key  *ecdsa.PublicKey
	Name []byte // SHA-256 algorithm identifier and hash of the public area (Part 1, 16)
}

// ParsePublic reads a TPMT_PUBLIC and checks that a key in this role was made inside the TPM and cannot leave it:
// fixedTPM, fixedParent, sensitiveDataOrigin, sign and not decrypt, noDA, restricted exactly for an attestation key, P-256,
// name algorithm SHA-256, scheme ECDSA with SHA-256. Refusals name CheckKey or
// CheckAttributes.
func ParsePublic(area []byte, role Role) (*Public, error) {
	public, err := unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, attest.Refuse(CheckKey, "%s: %w", role, err)
	}
	if err := checkAttributes(public.ObjectAttributes, role); err != nil {
		return nil, attest.Refuse(CheckAttributes, "%s: %w", role, err)
	}
	key, err := ecdsaKey(public, role)
	if err != nil {
		return nil, attest.Refuse(CheckKey, "%s: %w", role, err)
	}
	return &Public{Key: key, Name: nameOf(area)}, nil
}

// nameOf is the name of an object with name algorithm SHA-256.
func nameOf(area []byte) []byte {
	hash := sha256.Sum256(area)
	return append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), hash[:]...)
}

func checkAttributes(a tpm2.TPMAObject, role Role) error {
	for _, c := range []struct {
		name      string
		got, want bool
	}{
		{"fixedTPM", a.FixedTPM, true},
		{"fixedParent", a.FixedParent, true},
		{"sensitiveDataOrigin", a.SensitiveDataOrigin, true},
		{"encryptedDuplication", a.EncryptedDuplication, false},
		{"noDA", a.NoDA, true},
		{"sign", a.SignEncrypt, true},
		{"decrypt", a.Decrypt, false},
		{"restricted", a.Restricted, role == AttestationKey},
	} {
		if c.got != c.want {
			if c.want {
				return fmt.Errorf("%s is not set", c.name)
			}
			return fmt.Errorf("%s is set", c.name)
		}
	}
	return nil
}

func ecdsaKey(public *tpm2.TPMTPublic, role Role) (*ecdsa.PublicKey, error) {
	if public.Type != tpm2.TPMAlgECC || public.NameAlg != tpm2.TPMAlgSHA256 {
		return nil, errors.New("type or name algorithm is another")
	}
	parameters, err := public.Parameters.ECCDetail()
	if err != nil {
		return nil, err
	}
	if parameters.CurveID != tpm2.TPMECCNistP256 {
		return nil, errors.New("curve is another")
	}
	switch parameters.Scheme.Scheme {
	case tpm2.TPMAlgECDSA:
		scheme, err := parameters.Scheme.Details.ECDSA()
		if err != nil {
			return nil, err
		}
		if scheme.HashAlg != tpm2.TPMAlgSHA256 {
			return nil, errors.New("ECDSA with another hash than SHA-256")
		}
	case tpm2.TPMAlgNull: // chosen per signature; only an unrestricted key may have none
		if role == AttestationKey {
			return nil, errors.New("no signature scheme")
		}
	default:
		return nil, errors.New("signature scheme is not ECDSA")
	}
	point, err := public.Unique.ECC()
	if err != nil {
		return nil, err
	}
	return p256Point(point.X.Buffer, point.Y.Buffer)
}

// p256Point makes a key of coordinates, which a TPM may give without leading zeros. The point must be on the curve.
func p256Point(x, y []byte) (*ecdsa.PublicKey, error) {
	const size = 32
	if len(x) > size || len(y) > size {
		return nil, errors.New("coordinates too long")
	}
	point := make([]byte, 1+2*size) // SEC 1, section 2.3.3
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}

// unmarshal reads a TPM structure. All bytes must belong to it, and writing it again must give the same bytes.
func unmarshal[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](data []byte) (value *T, err error) {
	defer func() {
		if r := recover(); r != nil { // the library decodes by reflection; what it meets here is hostile
			value, err = nil, fmt.Errorf("cannot be decoded: %v", r)
		}
	}()
	if len(data) > MaxStructureSize {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), MaxStructureSize)
	}
	value, err = tpm2.Unmarshal[T, P](data)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(tpm2.Marshal(*value), data) {
		return nil, errors.New("bytes left over, or not the TPM's encoding")
	}
	return value, nil
}
