package visa

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/raypher/raypher/journal"
)

// coseKey is a COSE_Key (RFC 9052, section 7) of type EC2 on P-256 (RFC 9053, section 7.1.1), with both coordinates.
type coseKey struct {
	Type  int64  `cbor:"1,keyasint"`
	Curve int64  `cbor:"-1,keyasint"`
	X     []byte `cbor:"-2,keyasint"`
	Y     []byte `cbor:"-3,keyasint"`
}

const (
	keyTypeEC2 = 2
	curveP256  = 1
)

var errConfirmationKey = errors.New("cnf: not a COSE_Key on P-256 in deterministic encoding")

// ConfirmationKey returns the COSE_Key of a P-256 key: the cnf of a visa.
func ConfirmationKey(public *ecdsa.PublicKey) ([]byte, error) {
	if public == nil || public.Curve != elliptic.P256() {
		return nil, errConfirmationKey
	}
	point, err := public.Bytes() // 0x04 || X || Y
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errConfirmationKey, err)
	}
	return encoding.Marshal(coseKey{Type: keyTypeEC2, Curve: curveP256, X: point[1:33], Y: point[33:]})
}

// ParseConfirmationKey reads a COSE_Key as ConfirmationKey makes it and checks that the point is on the curve.
func ParseConfirmationKey(raw []byte) (*ecdsa.PublicKey, error) {
	if err := checkConfirmationKey(raw); err != nil {
		return nil, err
	}
	point := make([]byte, 0, 65)
	point = append(point, 4)
	point = append(point, raw[len(coseKeyHead):len(coseKeyHead)+32]...)
	point = append(point, raw[len(raw)-32:]...)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errConfirmationKey, err)
	}
	return public, nil
}

// The only encoding of such a key: {1: 2, -1: 1, -2: X, -3: Y}.
var (
	coseKeyHead = []byte{0xa4, 0x01, keyTypeEC2, 0x20, curveP256, 0x21, 0x58, 0x20}
	coseKeyMid  = []byte{0x22, 0x58, 0x20}
)

func checkConfirmationKey(raw []byte) error {
	head, mid := len(coseKeyHead), len(coseKeyMid)
	if len(raw) != head+32+mid+32 || !bytes.Equal(raw[:head], coseKeyHead) || !bytes.Equal(raw[head+32:head+32+mid], coseKeyMid) {
		return errConfirmationKey
	}
	return nil
}

// ChallengeSize is the size of a challenge, in bytes.
const ChallengeSize = 32

// NewChallenge draws a challenge. The relying party sends it with its own name, takes each answer once and not for long.
func NewChallenge() ([]byte, error) {
	challenge := make([]byte, ChallengeSize)
	if _, err := rand.Read(challenge); err != nil {
		return nil, fmt.Errorf("challenge: %w", err)
	}
	return challenge, nil
}

// possessionContext separates these signatures from every other use of the key.
const possessionContext = "raypher visa possession v1\x00"

// ProvePossession signs a challenge with the key of the visa's cnf. The audience is the relying party that sent the
// challenge: signing it keeps that party from passing the answer on to another.
func ProvePossession(key *ecdsa.PrivateKey, audience string, challenge []byte) ([]byte, error) {
	digest, err := possessionDigest(audience, challenge)
	if err != nil {
		return nil, err
	}
	der, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		return nil, fmt.Errorf("proof of possession: %w", err)
	}
	return journal.RawSignature(der)
}

// VerifyPossession checks an answer to a challenge against the cnf of claims that were verified before.
func VerifyPossession(claims *Claims, audience string, challenge, answer []byte) error {
	digest, err := possessionDigest(audience, challenge)
	if err != nil {
		return err
	}
	public, err := ParseConfirmationKey(claims.Confirmation.Key)
	if err != nil {
		return err
	}
	if !journal.VerifySignature(public, digest, answer) {
		return ErrPossession
	}
	return nil
}

func possessionDigest(audience string, challenge []byte) ([]byte, error) {
	if len(challenge) != ChallengeSize || len(audience) > MaxText {
		return nil, fmt.Errorf("proof of possession: a challenge of %d bytes and an audience of %d: expected %d and at most %d",
			len(challenge), len(audience), ChallengeSize, MaxText)
	}
	h := sha256.New()
	h.Write([]byte(possessionContext))
	h.Write(challenge) // of fixed size, so what follows cannot be taken for it
	h.Write([]byte(audience))
	return h.Sum(nil), nil
}
