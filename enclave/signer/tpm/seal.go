package tpm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/enclave/seal"
)

// Seal binds a secret to this TPM and to policies of a policy key (PKIX DER): those for name, of minVersion or newer.
// What travels to the TPM is encrypted.
func (k *Key) Seal(ctx context.Context, secret []byte, policyKey []byte, name string, minVersion uint64) (*seal.Sealed, error) {
	s := &seal.Sealed{Name: name, PolicyKey: policyKey, MinVersion: minVersion}
	dataKey := make([]byte, seal.DataKeySize)
	rand.Read(dataKey) // never fails (crypto/rand)
	if err := k.owner.do(ctx, func(tpm transport.TPM) error { return createSealed(tpm, s, dataKey) }); err != nil {
		return nil, fmt.Errorf("seal: %w", deviceError(err))
	}
	if err := s.Lock(dataKey, secret); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return s, nil
}

// sealTemplate is the public area of the object with the data key. Only its policy opens it: no password does, and so none can
// lock it out.
func sealTemplate(policy [32]byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, AdminWithPolicy: true, NoDA: true},
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy[:]},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
	}
}

func createSealed(tpm transport.TPM, s *seal.Sealed, dataKey []byte) error {
	policy, err := seal.ObjectPolicy(s.PolicyKey, s.Name)
	if err != nil {
		return err
	}
	p, err := makePrimary(tpm, tpm2.TPMRHOwner)
	if err != nil {
		return err
	}
	defer flush(tpm, p.handle)
	response, err := execute(tpm, tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize,
			tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(128, tpm2.EncryptIn))},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: dataKey}),
		}},
		InPublic: tpm2.New2B(sealTemplate(policy)),
	})
	if err != nil {
		return fmt.Errorf("make sealed object: %w", err)
	}
	s.Primary, s.Public, s.Private = p.name.Buffer, response.OutPublic.Bytes(), response.OutPrivate.Buffer
	return nil
}

// Unseal opens a secret with the first of the signed policies that approves the state that this machine is in. Errors wrap
// those of package seal, and say for each policy which PCR differs.
func (k *Key) Unseal(ctx context.Context, s *seal.Sealed, signed [][]byte) (secret []byte, p *seal.Policy, err error) {
	var dataKey []byte
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		p, err = s.Choose(signed, func(index uint64) (value [attest.PCRSize]byte, err error) {
			pcrs, err := readPCRs(tpm, []uint{uint(index)})
			if err == nil {
				value = pcrs[0].Value
			}
			return value, err
		})
		if err != nil {
			return err
		}
		dataKey, err = openSealed(tpm, s, p)
		return err
	})
	for _, ours := range []error{seal.ErrPCRs, seal.ErrSignature, seal.ErrVersion, seal.ErrMalformed} {
		if errors.Is(err, ours) {
			return nil, nil, fmt.Errorf("open secret: %w", err)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open secret: %w", deviceError(err))
	}
	if secret, err = s.Unlock(dataKey); err != nil {
		return nil, nil, fmt.Errorf("open secret: %w", err)
	}
	return secret, p, nil
}

// openSealed has the TPM open the data key. It checks everything again, whatever this program believes.
func openSealed(tpm transport.TPM, s *seal.Sealed, p *seal.Policy) ([]byte, error) {
	ticket, keyName, err := approve(tpm, s, p) // first: there is no room for its key later
	if err != nil {
		return nil, err
	}
	primary, err := makePrimary(tpm, tpm2.TPMRHOwner)
	if err != nil {
		return nil, err
	}
	defer flush(tpm, primary.handle)
	if !bytes.Equal(primary.name.Buffer, s.Primary) {
		return nil, errors.New("the secret was sealed in another TPM, or this one was cleared: seal it anew here")
	}
	object, err := execute(tpm, tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: primary.handle, Name: primary.name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: s.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](s.Public),
	})
	if err != nil {
		return nil, fmt.Errorf("%w: load sealed object: %w: the file was changed, or the TPM was cleared", seal.ErrMalformed, err)
	}
	defer flush(tpm, object.ObjectHandle)
	digest, ref := seal.Digest(p.PCRs), seal.Ref(s.Name)
	response, err := execute(tpm, tpm2.Unseal{ItemHandle: tpm2.AuthHandle{
		Handle: object.ObjectHandle, Name: object.Name,
		Auth: tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, func(tpm transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
			values := seal.PCRDigest(p.PCRs)
			if _, err := execute(tpm, tpm2.PolicyPCR{PolicySession: session, PcrDigest: tpm2.TPM2BDigest{Buffer: values[:]}, Pcrs: seal.Selection(p.PCRs)}); err != nil {
				return fmt.Errorf("%w: the TPM says so: %w", seal.ErrPCRs, err)
			}
			_, err := execute(tpm, tpm2.PolicyAuthorize{
				PolicySession: session, ApprovedPolicy: tpm2.TPM2BDigest{Buffer: digest[:]}, PolicyRef: tpm2.TPM2BDigest{Buffer: ref[:]},
				KeySign: *keyName, CheckTicket: *ticket,
			})
			return err
		}, tpm2.Salted(primary.handle, primary.public), tpm2.AESEncryption(128, tpm2.EncryptOut)),
	}})
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, fmt.Errorf("%w: the secret was sealed to another policy key or name: %w", seal.ErrSignature, err)
	}
	if errors.Is(err, tpm2.TPMRCPCRChanged) {
		return nil, fmt.Errorf("%w: a PCR was extended meanwhile: try again: %w", seal.ErrPCRs, err)
	}
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return response.OutData.Buffer, nil
}

// approve has the TPM verify the policy key's signature, for which it gives a ticket.
func approve(tpm transport.TPM, s *seal.Sealed, p *seal.Policy) (*tpm2.TPMTTKVerified, *tpm2.TPM2BName, error) {
	area, err := seal.KeyArea(s.PolicyKey)
	if err != nil {
		return nil, nil, err
	}
	key, err := execute(tpm, tpm2.LoadExternal{InPublic: tpm2.New2B(*area), Hierarchy: tpm2.TPMRHOwner})
	if err != nil {
		return nil, nil, fmt.Errorf("load policy key: %w", err)
	}
	defer flush(tpm, key.ObjectHandle)
	digest := seal.Approval(seal.Digest(p.PCRs), s.Name)
	verified, err := execute(tpm, tpm2.VerifySignature{
		KeyHandle: tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
		Digest:    tpm2.TPM2BDigest{Buffer: digest[:]},
		Signature: tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: p.Signature[:32]}, SignatureS: tpm2.TPM2BECCParameter{Buffer: p.Signature[32:]},
		})},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the TPM says so: %w", seal.ErrSignature, err)
	}
	return &verified.Validation, &key.Name, nil
}

// PCRs reads registers of the SHA-256 bank.
func (k *Key) PCRs(ctx context.Context, numbers []uint) (pcrs []attest.PCR, err error) {
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		pcrs, err = readPCRs(tpm, numbers)
		return err
	})
	if err != nil {
		return nil, deviceError(err)
	}
	return pcrs, nil
}

// WithoutKey is for talking to a TPM without a signing key: Seal, Unseal, PCRs and Identity. Close closes the device.
func WithoutKey(device transport.TPMCloser, c Configuration) *Key { return withoutKey(device, c) }
