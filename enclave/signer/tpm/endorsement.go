package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
)

// NV indices of EK certificates (EK Credential Profile, 2.2.1.4), in the order of preference.
var ekIndices = []tpm2.TPMHandle{
	0x01c00002, // RSA 2048, low range
	0x01c0000a, // ECC P-256
	0x01c00016, // ECC P-384, high range
	0x01c0001c, // RSA 3072
	0x01c0001e, // RSA 4096
}

// ekCertificate is the configured certificate, or the one in the TPM's memory. It is read once.
func (k *Key) ekCertificate(tpm transport.TPM) ([]byte, error) {
	if k.endorsement != nil {
		return k.endorsement, nil
	}
	if c := k.configuration.EKCertificate; c != nil {
		k.endorsement = c
		return c, nil
	}
	for _, index := range ekIndices {
		der, err := readNV(tpm, index)
		if errors.Is(err, tpm2.TPMRCHandle) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read EK certificate: %w", err)
		}
		if der, err = trimCertificate(der); err != nil {
			return nil, fmt.Errorf("read EK certificate at %#x: %w", uint32(index), err)
		}
		k.endorsement = der
		return der, nil
	}
	return nil, errors.New("the TPM holds no EK certificate: get it from the TPM's vendor (tpm2_getekcertificate) and name it in tpm.conf, `ek_certificate = FILE`")
}

// trimCertificate cuts the padding that some vendors leave behind a certificate in NV memory.
func trimCertificate(data []byte) ([]byte, error) {
	if len(data) < 4 || data[0] != 0x30 || data[1] != 0x82 { // SEQUENCE with two bytes of length (X.690, 8.1)
		return nil, errors.New("no certificate in DER")
	}
	size := 4 + int(data[2])<<8 + int(data[3])
	if size > len(data) || size > attest.MaxCertificateSize {
		return nil, errors.New("a certificate that is cut off or too long")
	}
	return data[:size], nil
}

// Identity is what a verifier needs to make a challenge for this TPM.
func (k *Key) Identity(ctx context.Context) (*attest.Identity, error) {
	id := attest.Identity{Intermediates: k.configuration.Intermediates}
	err := k.owner.do(ctx, func(tpm transport.TPM) (err error) {
		if id.EKCertificate, err = k.ekCertificate(tpm); err != nil {
			return err
		}
		ak, err := makeAK(tpm)
		if err != nil {
			return err
		}
		flush(tpm, ak.handle)
		id.AKPublic = ak.area
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("identity of the TPM: %w", deviceError(err))
	}
	return &id, nil
}

// Activate answers a challenge of a verifier (attest/tpm.NewChallenge): the secret, which only this TPM can decrypt, and
// only because the challenge is for its AK. Making an RSA EK takes some chips many seconds.
func (k *Key) Activate(ctx context.Context, credential, secret []byte) ([]byte, error) {
	var answer []byte
	err := k.owner.do(ctx, func(tpm transport.TPM) (err error) {
		answer, err = k.activate(tpm, credential, secret)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("activate credential: %w", deviceError(err))
	}
	return answer, nil
}

func (k *Key) activate(tpm transport.TPM, credential, secret []byte) ([]byte, error) {
	der, err := k.ekCertificate(tpm)
	if err != nil {
		return nil, err
	}
	ek, auth, err := makeEK(tpm, der)
	if err != nil {
		return nil, err
	}
	defer flush(tpm, ek.ObjectHandle)
	ak, err := makeAK(tpm)
	if err != nil {
		return nil, err
	}
	defer flush(tpm, ak.handle)
	response, err := execute(tpm, tpm2.ActivateCredential{
		ActivateHandle: ak.auth(tpm2.PasswordAuth(nil)),
		KeyHandle:      tpm2.AuthHandle{Handle: ek.ObjectHandle, Name: ek.Name, Auth: auth},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
	})
	if errors.Is(err, tpm2.TPMRCFailure) { // no failure mode, in which it would have made neither key
		return nil, errors.New("it cannot decrypt the credential: the challenge is for another EK or AK")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the challenge is for another EK or AK", err)
	}
	return response.CertInfo.Buffer, nil
}

// makeEK derives the EK of a certificate and says how it is authorised.
func makeEK(tpm transport.TPM, der []byte) (*tpm2.CreatePrimaryResponse, tpm2.Session, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("EK certificate: %w", err)
	}
	templates, err := attest.EKTemplates(c)
	if err != nil {
		return nil, nil, err
	}
	for _, t := range templates {
		ek, err := execute(tpm, tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(t.Area),
		})
		if err != nil {
			return nil, nil, fmt.Errorf("make endorsement key: %w", err)
		}
		if isKey(ek, c.PublicKey) {
			if t.ByPassword {
				return ek, tpm2.PasswordAuth(nil), nil
			}
			return ek, tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, endorsementPolicy), nil
		}
		flush(tpm, ek.ObjectHandle)
	}
	return nil, nil, errors.New("make endorsement key: the TPM derives another key than its EK certificate has: a certificate of another TPM, or of an EK by a template of the vendor's own")
}

// isKey compares the key that a TPM made with the one of a certificate.
func isKey(made *tpm2.CreatePrimaryResponse, want crypto.PublicKey) bool {
	area, err := made.OutPublic.Contents()
	if err != nil {
		return false
	}
	switch want := want.(type) {
	case *rsa.PublicKey:
		unique, err := area.Unique.RSA()
		return err == nil && new(big.Int).SetBytes(unique.Buffer).Cmp(want.N) == 0
	case *ecdsa.PublicKey:
		unique, err := area.Unique.ECC()
		if err != nil {
			return false
		}
		point, err := want.Bytes()
		if err != nil {
			return false
		}
		n := (len(point) - 1) / 2
		return len(unique.X.Buffer) <= n && len(unique.Y.Buffer) <= n &&
			bytes.Equal(append(make([]byte, n-len(unique.X.Buffer)), unique.X.Buffer...), point[1:1+n]) &&
			bytes.Equal(append(make([]byte, n-len(unique.Y.Buffer)), unique.Y.Buffer...), point[1+n:])
	}
	return false
}

// endorsementPolicy satisfies the policy of an EK: the (empty) password of the endorsement hierarchy.
func endorsementPolicy(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := execute(tpm, tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session,
		NonceTPM:      nonce,
	})
	return err
}
