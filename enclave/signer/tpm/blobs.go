package tpm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fxamacker/cbor/v2"
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
	text, err := readState(path, maxBlobsFile)
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

// readState reads a small file of this process's user, for a process that must not follow links out of its folder.
func readState(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// write keeps the blobs: the file appears whole or not at all. made is false when there is one already.
func (b *blobs) write(path string) (made bool, err error) {
	dir := filepath.Dir(path)
	text, err := cbor.Marshal(b)
	if err != nil {
		return false, err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return false, fmt.Errorf("keep key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return false, fmt.Errorf("keep key: %w", err)
	}
	if err := os.Link(f.Name(), path); errors.Is(err, os.ErrExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("keep key: %w", err)
	}
	folder, err := os.Open(dir)
	if err != nil {
		return true, fmt.Errorf("keep key: %w", err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return true, fmt.Errorf("keep key: %w", err)
	}
	return true, nil
}
