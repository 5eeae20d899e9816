package providerkeys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/internal/strictcbor"
)

// Names of the file in the state folder, by what is in it.
const (
	plainFile  = "provider-keys"        // tier software: whoever reads it has the keys
	sealedFile = "provider-keys.sealed" // AES-256-GCM: nonce, ciphertext. Its key is in the TPM
)

// sealedContext is authenticated beside the ciphertext.
const sealedContext = "raypher provider keys 1"

const (
	storeFormat = 1
	maxStore    = MaxKeys*(MaxSecret+MaxName+64) + 1024 // bytes
)

// stored is the file.
type stored struct {
	Format  uint64    `cbor:"1,keyasint"`
	Version uint64    `cbor:"2,keyasint"` // of the newest change
	Printer [32]byte  `cbor:"3,keyasint"` // key of the fingerprints, drawn once
	Keys    []heldKey `cbor:"4,keyasint"` // by name
}

type heldKey struct {
	Name    string `cbor:"1,keyasint"`
	Changed int64  `cbor:"2,keyasint"` // Unix seconds
	Secret  []byte `cbor:"3,keyasint"`
}

// read returns what is kept; a folder without the file keeps nothing.
func (k *Keys) read() (*stored, error) {
	name := k.file()
	text, err := statefile.Read(filepath.Join(k.opts.State, name), maxStore)
	if errors.Is(err, fs.ErrNotExist) {
		s := &stored{Format: storeFormat}
		rand.Read(s.Printer[:]) // never fails (crypto/rand)
		return s, nil
	}
	if err == nil && k.opts.DataKey != nil {
		text, err = k.unlock(text)
	}
	var s stored
	if err == nil {
		err = strictcbor.Decode(text, maxStore, &s)
	}
	if err == nil && s.Format != storeFormat {
		err = fmt.Errorf("format %d", s.Format)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: move the file away and add the keys anew", name, err)
	}
	return &s, nil
}

func (k *Keys) write(s *stored) error {
	text := strictcbor.Encode(s)
	defer clear(text)
	if k.opts.DataKey != nil {
		aead, err := k.aead()
		if err != nil {
			return err
		}
		nonce := make([]byte, aead.NonceSize())
		rand.Read(nonce) // never fails (crypto/rand)
		text = aead.Seal(nonce, nonce, text, []byte(sealedContext))
	}
	if err := statefile.Write(k.opts.State, k.file(), text); err != nil {
		return fmt.Errorf("keep the keys: %w", err)
	}
	return nil
}

func (k *Keys) file() string {
	if k.opts.DataKey == nil {
		return plainFile
	}
	return sealedFile
}

func (k *Keys) unlock(text []byte) ([]byte, error) {
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	if len(text) < aead.NonceSize() {
		return nil, errors.New("it was cut")
	}
	plain, err := aead.Open(nil, text[:aead.NonceSize()], text[aead.NonceSize():], []byte(sealedContext))
	if err != nil {
		return nil, errors.New("it was changed, or sealed by another TPM")
	}
	return plain, nil
}

func (k *Keys) aead() (cipher.AEAD, error) {
	key, err := k.opts.DataKey()
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
