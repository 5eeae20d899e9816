package tpm

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/raypher/raypher/enclave/seal"
	"github.com/raypher/raypher/enclave/signer"
)

// dataKeySuffix ends the names of files with data keys in the state folder, mode 0600. On any other machine they are of no use.
const dataKeySuffix = ".tpm"

// DataKey returns a key of seal.DataKeySize bytes for what this process keeps in its state folder, the same one each time: drawn at the first
// call, sealed in this TPM. No PCRs are asked for: whoever may use the TPM of this machine opens it, as whoever may can sign with the key.
// What travels from and to the TPM is encrypted.
func (k *Key) DataKey(ctx context.Context, name string) (key []byte, err error) {
	if err := signer.CheckName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(k.state, name+dataKeySuffix)
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		b, err := readBlobs(path)
		if err == nil && b == nil {
			b, err = makeDataKey(tpm, path)
		}
		if err == nil {
			key, err = b.unseal(tpm)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("data key %s: %w", name, deviceError(err))
	}
	return key, nil
}

// dataTemplate is the public area of the object with a data key. Its password is empty, and wrong ones for others cannot lock it out.
func dataTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
	}
}

func makeDataKey(tpm transport.TPM, path string) (*blobs, error) {
	p, err := makePrimary(tpm, tpm2.TPMRHOwner)
	if err != nil {
		return nil, err
	}
	defer flush(tpm, p.handle)
	key := make([]byte, seal.DataKeySize)
	defer clear(key)
	rand.Read(key) // never fails (crypto/rand)
	response, err := execute(tpm, tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize,
			tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(128, tpm2.EncryptIn))},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: key}),
		}},
		InPublic: tpm2.New2B(dataTemplate()),
	})
	if err != nil {
		return nil, fmt.Errorf("seal it: %w", err)
	}
	b := &blobs{Version: blobsVersion, Public: response.OutPublic.Bytes(), Private: response.OutPrivate.Buffer, Primary: p.name.Buffer, path: path}
	made, err := b.write(path)
	if err == nil && !made { // another process was faster
		return readBlobs(path)
	}
	return b, err
}

// unseal has the TPM open the data key.
func (b *blobs) unseal(tpm transport.TPM) ([]byte, error) {
	p, err := b.makeParent(tpm)
	if err != nil {
		return nil, err
	}
	defer flush(tpm, p.handle)
	object, err := execute(tpm, tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: b.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](b.Public),
	})
	if err != nil {
		return nil, fmt.Errorf("load it: %w: %s was changed, or the TPM was cleared", err, b.path)
	}
	defer flush(tpm, object.ObjectHandle)
	response, err := execute(tpm, tpm2.Unseal{ItemHandle: tpm2.AuthHandle{
		Handle: object.ObjectHandle, Name: object.Name,
		Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(128, tpm2.EncryptOut)),
	}})
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	if len(response.OutData.Buffer) != seal.DataKeySize {
		return nil, fmt.Errorf("%s: another object: move the file away", b.path)
	}
	return response.OutData.Buffer, nil
}
