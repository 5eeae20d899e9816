package journal

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// maxTreeSize keeps every index within the int64 of package tlog, with room for shifts.
const maxTreeSize = 1 << 62

// Tree is the right edge of a Merkle tree: enough to append and to prove what is appended, not enough to prove what was
// appended before. It has a fixed size of about 2 KiB. A copy of the value is a snapshot: keep one to undo an Append.
// The zero value is the empty tree. It is not safe for concurrent use.
type Tree struct {
	size uint64
	// edge[l] is the hash of the complete subtree of 2^l leaves that ends where the subtrees above it end; it counts
	// only where bit l of size is set.
	edge [63]Hash
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// Root is the hash of the whole tree. The empty tree's is SHA-256 of nothing (RFC 6962, section 2.1).
func (t *Tree) Root() Hash { return t.tail(len(t.edge)) }

// Edge returns the hashes that the tree consists of, lowest first: one for each bit that is set in its size.
func (t *Tree) Edge() []Hash {
	edge := make([]Hash, 0, bits.OnesCount64(t.size))
	for l := range t.edge {
		if t.size>>l&1 != 0 {
			edge = append(edge, t.edge[l])
		}
	}
	return edge
}

// TreeFromEdge is the tree of that size whose Edge was edge.
func TreeFromEdge(size uint64, edge []Hash) (Tree, error) {
	t := Tree{size: size}
	if size > maxTreeSize || len(edge) != bits.OnesCount64(size) {
		return Tree{}, fmt.Errorf("tree of %d leaves from %d hashes", size, len(edge))
	}
	for l := range t.edge {
		if size>>l&1 != 0 {
			t.edge[l], edge = edge[0], edge[1:]
		}
	}
	return t, nil
}

// tail is the hash over the leaves beyond the last complete subtree of 2^level leaves.
func (t *Tree) tail(level int) Hash {
	var hash Hash
	found := false
	for l := 0; l < level && t.size>>l != 0; l++ {
		switch {
		case t.size>>l&1 == 0:
		case !found:
			hash, found = t.edge[l], true
		default:
			hash = tlog.NodeHash(t.edge[l], hash)
		}
	}
	if !found {
		return Hash(sha256.Sum256(nil))
	}
	return hash
}

// Batch is what one Append added, with all hashes that its proofs need. It is immutable and safe for concurrent use.
type Batch struct {
	first, size uint64
	root        Hash
	before      Tree     // the edge before: left siblings of the first new nodes
	levels      [][]Hash // levels[l]: complete nodes of level l from number first>>l on
	tails       []Hash   // tails[l]: the incomplete node of level l at the right end
}

// Append adds leaves, which are not kept after the batch is gone. Appending nothing is a mistake of the caller and yields a
// batch without proofs.
func (t *Tree) Append(leaves []Hash) *Batch {
	b := &Batch{first: t.size, before: *t}
	nodes := append([]Hash(nil), leaves...)
	size := t.size + uint64(len(leaves))
	for l := 0; ; l++ {
		b.levels = append(b.levels, nodes)
		// nodes hold numbers start..; pair them, with the old edge as the left one if start is odd.
		start := b.first >> l
		if size>>l&1 != 0 && len(nodes) > 0 {
			t.edge[l] = nodes[len(nodes)-1]
		}
		if size>>l <= 1 {
			break
		}
		up := make([]Hash, 0, len(nodes)/2+1)
		i := 0
		if start&1 != 0 && len(nodes) > 0 {
			up = append(up, tlog.NodeHash(b.before.edge[l], nodes[0]))
			i = 1
		}
		for ; i+1 < len(nodes); i += 2 {
			up = append(up, tlog.NodeHash(nodes[i], nodes[i+1]))
		}
		nodes = up
	}
	t.size = size
	b.size, b.root = size, t.Root()
	b.tails = make([]Hash, len(b.levels))
	for l := range b.tails {
		if size&(1<<l-1) != 0 {
			b.tails[l] = t.tail(l)
		}
	}
	return b
}

// First is the index of the batch's first leaf, Size that of the tree with the batch, Root its hash.
func (b *Batch) First() uint64 { return b.first }

// Size is the number of leaves of the tree that ends with this batch.
func (b *Batch) Size() uint64 { return b.size }

// Root is the hash of the tree that ends with this batch.
func (b *Batch) Root() Hash { return b.root }

// Proof returns the audit path of the leaf with that index in the tree that ends with this batch, lowest hash first. The
// index must be one of the batch's leaves.
func (b *Batch) Proof(index uint64) []Hash {
	if index < b.first || index >= b.size {
		panic(fmt.Sprintf("journal: proof of leaf %d from a batch of %d to %d", index, b.first, b.size))
	}
	path := make([]Hash, 0, bits.Len64(b.size-1))
	for l := 0; l < len(b.levels) && uint64(1)<<l < b.size; l++ {
		n := index >> l
		if n&1 != 0 {
			path = append(path, b.node(l, n-1))
			continue
		}
		switch right := n + 1; {
		case (right+1)<<l <= b.size:
			path = append(path, b.node(l, right))
		case right<<l < b.size:
			path = append(path, b.tails[l])
		}
	}
	return path
}

// node is the complete node with that number: one of this batch, or the last one before it.
func (b *Batch) node(level int, number uint64) Hash {
	start := b.first >> level
	if number < start {
		return b.before.edge[level]
	}
	return b.levels[level][number-start]
}

// rootFromPath computes the root that an audit path leads to (RFC 9162, section 2.1.3.2). ok is false where the path has
// not the length that index and size ask for.
func rootFromPath(leaf Hash, index, size uint64, path []Hash) (root Hash, ok bool) {
	if index >= size {
		return Hash{}, false
	}
	fn, sn, hash := index, size-1, leaf
	for _, sibling := range path {
		if sn == 0 {
			return Hash{}, false
		}
		if fn&1 != 0 || fn == sn {
			hash = tlog.NodeHash(sibling, hash)
			for fn&1 == 0 && fn != 0 {
				fn >>= 1
				sn >>= 1
			}
		} else {
			hash = tlog.NodeHash(hash, sibling)
		}
		fn >>= 1
		sn >>= 1
	}
	return hash, sn == 0
}
