package journal_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/raypher/raypher/journal"
)

// reference is the same tree kept whole by package tlog.
type reference struct{ stored []journal.Hash }

func (r *reference) ReadHashes(indexes []int64) ([]journal.Hash, error) {
	out := make([]journal.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = r.stored[at]
	}
	return out, nil
}

func (r *reference) append(t *testing.T, n int64, leaf journal.Hash) {
	hashes, err := tlog.StoredHashesForRecordHash(n, leaf, r)
	if err != nil {
		t.Fatal(err)
	}
	r.stored = append(r.stored, hashes...)
}

func leaf(n uint64) journal.Hash {
	return journal.LeafHash(binary.BigEndian.AppendUint64([]byte("leaf"), n))
}

// TestTreeAgreesWithTlog appends batches of every small size and of random ones, and compares root and all proofs of the
// batch with those of the whole tree.
func TestTreeAgreesWithTlog(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		var tree journal.Tree
		var whole reference
		for tree.Size() < 300 {
			count := 1 + random.Uint64N(uint64(round)+1)
			var leaves []journal.Hash
			for i := range count {
				l := leaf(tree.Size() + i)
				leaves = append(leaves, l)
				whole.append(t, int64(tree.Size()+i), l)
			}
			b := tree.Append(leaves)
			want, err := tlog.TreeHash(int64(tree.Size()), &whole)
			if err != nil {
				t.Fatal(err)
			}
			if b.Root() != want || tree.Root() != want || b.Size() != tree.Size() {
				t.Fatalf("size %d: root %s, want %s", tree.Size(), b.Root(), want)
			}
			for i := b.First(); i < b.Size(); i++ {
				proof, err := tlog.ProveRecord(int64(b.Size()), int64(i), &whole)
				if err != nil {
					t.Fatal(err)
				}
				if got := b.Proof(i); !equal(got, proof) {
					t.Fatalf("size %d, leaf %d: path %v, want %v", b.Size(), i, got, proof)
				}
			}
			again, err := journal.TreeFromEdge(tree.Size(), tree.Edge())
			if err != nil || again != tree && again.Root() != want {
				t.Fatalf("size %d: the tree from its edge differs: %v", tree.Size(), err)
			}
		}
	}
}

func equal(a, b []journal.Hash) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestTheEmptyTreeHasTheRootOfTheRFC(t *testing.T) {
	want, err := tlog.TreeHash(0, &reference{})
	if err != nil {
		t.Fatal(err)
	}
	if got := new(journal.Tree).Root(); got != want {
		t.Fatalf("root %s, want %s", got, want)
	}
}

func TestConsistencyOfTwoHeads(t *testing.T) {
	var tree journal.Tree
	var leaves []journal.Hash
	heads := map[uint64]*journal.Head{}
	for i := range uint64(40) {
		leaves = append(leaves, leaf(i))
		tree.Append(leaves[i:])
		heads[i+1] = &journal.Head{Size: i + 1, Root: tree.Root()}
	}
	for size := uint64(1); size <= 40; size++ {
		proof, err := journal.ProveConsistency(size, leaves)
		if err != nil {
			t.Fatal(err)
		}
		if err := journal.CheckConsistency(heads[size], heads[40], proof); err != nil {
			t.Errorf("%d to 40: %v", size, err)
		}
		forged := *heads[size]
		forged.Root[5] ^= 1
		if err := journal.CheckConsistency(&forged, heads[40], proof); err == nil {
			t.Errorf("%d to 40: another root passes", size)
		}
	}
	if err := journal.CheckConsistency(heads[40], heads[39], nil); err == nil {
		t.Error("a smaller tree continues a larger one")
	}
}

// BenchmarkProofs is the cost of the sequencer for each entry: leaf hash, tree and proof, in batches of 32.
func BenchmarkProofs(b *testing.B) {
	var tree journal.Tree
	entry := make([]byte, 600)
	leaves := make([]journal.Hash, 32)
	for i := 0; i < b.N; i += len(leaves) {
		for j := range leaves {
			binary.BigEndian.PutUint64(entry, uint64(i+j))
			leaves[j] = journal.LeafHash(entry)
		}
		batch := tree.Append(leaves)
		for j := batch.First(); j < batch.Size(); j++ {
			batch.Proof(j)
		}
	}
}
