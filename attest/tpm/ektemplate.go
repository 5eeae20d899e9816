package tpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/attest"
)

// policyB384 is the authorisation policy of EKs of the high range with names by SHA-384: PolicyOR of the low range's PolicySecret and
// of a policy in NV (TCG EK Credential Profile, B.6.4, PolicyB).
var policyB384 = []byte{
	0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
	0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
	0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
}

// EKTemplate is a public area from which a TPM derives an EK, without the key.
type EKTemplate struct {
	Area tpm2.TPMTPublic
	// ByPassword: the key is used with its empty password (userWithAuth, high range); else with a policy, PolicySecret of the
	// endorsement hierarchy (low range).
	ByPassword bool
}

// EKTemplates are those from which the EK of a certificate may come (TCG EK Credential Profile, annex B): RSA 2048 (L-1) and ECC P-256
// (L-2) of the low range; ECC P-384 (H-3), RSA 3072 (H-6) and RSA 4096 (H-7) of the high range, whose unique field is empty in
// the profile and zeroes in some TPMs. Which one it was shows when the key is derived. Other keys are refused, among them P-521.
func EKTemplates(c *x509.Certificate) ([]EKTemplate, error) {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.E != 65537 {
			return nil, attest.Refuse(CheckEndorsement, "an RSA key with the exponent %d", key.E)
		}
		switch bits := key.N.BitLen(); bits {
		case 2048:
			return []EKTemplate{{Area: tpm2.RSAEKTemplate}}, nil
		case 3072, 4096:
			return []EKTemplate{highRSA(bits, nil), highRSA(bits, make([]byte, bits/8))}, nil
		default:
			return nil, attest.Refuse(CheckEndorsement, "an RSA key of %d bits, expected 2048, 3072 or 4096", bits)
		}
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return []EKTemplate{{Area: tpm2.ECCEKTemplate}}, nil
		case elliptic.P384():
			return []EKTemplate{highP384(nil), highP384(make([]byte, 48))}, nil
		}
		return nil, attest.Refuse(CheckEndorsement, "a key on %s, expected P-256 or P-384", key.Curve.Params().Name)
	}
	return nil, attest.Refuse(CheckEndorsement, "a key of an unknown kind")
}

// highRange is what EKs of the high range have in common: names by SHA-384, userWithAuth, AES-256 inside.
func highRange(kind tpm2.TPMAlgID) (tpm2.TPMTPublic, tpm2.TPMTSymDefObject) {
	return tpm2.TPMTPublic{
			Type: kind, NameAlg: tpm2.TPMAlgSHA384, AuthPolicy: tpm2.TPM2BDigest{Buffer: policyB384},
			ObjectAttributes: tpm2.TPMAObject{
				FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, AdminWithPolicy: true, Restricted: true, Decrypt: true,
			},
		}, tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
			Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		}
}

func highRSA(bits int, unique []byte) EKTemplate {
	area, symmetric := highRange(tpm2.TPMAlgRSA)
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: symmetric, KeyBits: tpm2.TPMKeyBits(bits)})
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: unique})
	return EKTemplate{Area: area, ByPassword: true}
}

func highP384(unique []byte) EKTemplate {
	area, symmetric := highRange(tpm2.TPMAlgECC)
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: symmetric, CurveID: tpm2.TPMECCNistP384})
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: unique}, Y: tpm2.TPM2BECCParameter{Buffer: unique}})
	return EKTemplate{Area: area, ByPassword: true}
}

// ekPublic is the public area of the EK of a certificate: a template and the key. All templates of a key make the same
// credential, which depends on the key, the hash of names and the symmetric cipher alone (TPM 2.0 Part 1, 24).
func ekPublic(c *x509.Certificate) (*tpm2.TPMTPublic, error) {
	templates, err := EKTemplates(c)
	if err != nil {
		return nil, err
	}
	public := templates[0].Area
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.FillBytes(make([]byte, key.Size()))})
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // 4 || x || y (SEC 1, 2.3.3)
		if err != nil {
			return nil, attest.Refuse(CheckEndorsement, "%w", err)
		}
		x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y}})
	}
	return &public, nil
}
