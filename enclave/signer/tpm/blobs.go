package tpm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/internal/statefile"
)

// blobsFile is the name of the key's blobs in the state folder, mode 0600. Whoever can read it and may use the TPM of this
// host can sign; on any other machine it is of no use.
const blobsFile = "tpm.key"

const (
	blobsVersion  = 1
	maxBlobsFile  = 4096 // bytes; the blobs of a P-256 key have about 250
	maxStateFiles = 4096 // bytes of other files
)

// blobs is a key as TPM2_Create returns it.
type blobs struct {
	Version uint64 `cbor:"1,keyasint"`
	Public  []byte `cbor:"2,keyasint"` // TPMT_PUBLIC
	Private []byte `cbor:"3,keyasint"` // TPM2B_PRIVATE's content, encrypted by the TPM to itself
	Primary []byte `cbor:"4,keyasint"` // name of the primary key above it

	path string // for messages
}

// readBlobs returns nil and no error when there is no file.
func readBlobs(path string) (*blobs, error) {
	text, err := statefile.Read(path, maxBlobsFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := &blobs{path: path}
	if err := cbor.Unmarshal(text, b); err != nil || b.Version != blobsVersion || len(b.Public) == 0 || len(b.Private) == 0 {
		return nil, fmt.Errorf("%s: not a key file: restore it, or move it away for a new key", path)
	}
	return b, nil
}

// write keeps the blobs: the file appears whole or not at all. made is false when there is one already.
func (b *blobs) write(path string) (made bool, err error) {
	text, err := cbor.Marshal(b)
	if err != nil {
		return false, err
	}
	made, err = statefile.Create(filepath.Dir(path), filepath.Base(path), text)
	if err != nil {
		return made, fmt.Errorf("keep key: %w", err)
	}
	return made, nil
}
