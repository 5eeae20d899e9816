package journal

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrConsistency means that a later head does not continue an earlier one: entries were changed or removed.
var ErrConsistency = errors.New("the later tree does not continue the earlier one")

// ProveConsistency returns the proof that the tree of all leaves continues the tree of the first size leaves (RFC 6962,
// section 2.1.2). It holds all hashes of the tree in memory, 64 bytes for each leaf.
func ProveConsistency(size uint64, leaves []Hash) ([]Hash, error) {
	if size == 0 || size > uint64(len(leaves)) {
		return nil, fmt.Errorf("consistency proof: from %d to %d entries", size, len(leaves))
	}
	var stored []Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		out := make([]Hash, len(indexes))
		for i, at := range indexes {
			if at < 0 || at >= int64(len(stored)) {
				return nil, fmt.Errorf("no hash %d", at)
			}
			out[i] = stored[at]
		}
		return out, nil
	})
	for i, leaf := range leaves {
		hashes, err := tlog.StoredHashesForRecordHash(int64(i), leaf, reader)
		if err != nil {
			return nil, fmt.Errorf("consistency proof: %w", err)
		}
		stored = append(stored, hashes...)
	}
	proof, err := tlog.ProveTree(int64(len(leaves)), int64(size), reader)
	if err != nil {
		return nil, fmt.Errorf("consistency proof: %w", err)
	}
	return proof, nil
}

// CheckConsistency checks that newer continues older; both signatures were checked before.
func CheckConsistency(older, newer *Head, proof []Hash) error {
	if older.Epoch != newer.Epoch || older.Size > newer.Size {
		return fmt.Errorf("%w: epoch %s size %d, then epoch %s size %d", ErrConsistency, older.Epoch, older.Size, newer.Epoch, newer.Size)
	}
	if err := tlog.CheckTree(proof, int64(newer.Size), newer.Root, int64(older.Size), older.Root); err != nil {
		return fmt.Errorf("%w: %v", ErrConsistency, err)
	}
	return nil
}
