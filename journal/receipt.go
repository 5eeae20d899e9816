package journal

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/cborscan"
	"github.com/raypher/raypher/internal/strictcbor"
)

// Receipt proves that an entry lies at an index of the tree under a signed head.
type Receipt struct {
	Epoch      EpochID `cbor:"1,keyasint"`
	Index      uint64  `cbor:"2,keyasint"`
	Path       []Hash  `cbor:"3,keyasint"`
	SignedHead []byte  `cbor:"4,keyasint"`
}

// ErrInclusion means that the proof does not lead from the entry to the head.
var ErrInclusion = errors.New("the inclusion proof does not lead to the signed root")

// maxPath is the longest audit path: the depth of a tree of maxTreeSize. maxReceiptSize bounds an encoded receipt.
const (
	maxPath        = 62
	maxReceiptSize = maxPath*34 + MaxSignedHeadSize + 64
)

// Encode returns the receipt as CBOR.
func (r *Receipt) Encode() []byte {
	return r.AppendTo(make([]byte, 0, r.encodedBound()))
}

// encodedBound is at least the size of the encoded receipt.
func (r *Receipt) encodedBound() int { return 64 + 34*len(r.Path) + len(r.SignedHead) }

// AppendTo appends the receipt as CBOR.
func (r *Receipt) AppendTo(to []byte) []byte {
	o := cborscan.Output(to)
	o.Map(4)
	o.Uint(1)
	o.Bytes(r.Epoch[:])
	o.Uint(2)
	o.Uint(r.Index)
	o.Uint(3)
	o.Array(uint64(len(r.Path)))
	for i := range r.Path {
		o.Bytes(r.Path[i][:])
	}
	o.Uint(4)
	o.Bytes(r.SignedHead)
	return o
}

// DecodeReceipt reads what Encode made. Nothing is verified. SignedHead points into data.
func DecodeReceipt(data []byte) (*Receipt, error) {
	if len(data) > maxReceiptSize {
		return nil, fmt.Errorf("receipt: %d bytes, the limit is %d", len(data), maxReceiptSize)
	}
	r, rest, err := CutReceipt(data)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("receipt: %w", strictcbor.ErrEncoding)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// CutReceipt reads the receipt that data begins with, and returns what follows it.
func CutReceipt(data []byte) (r *Receipt, rest []byte, err error) {
	c := cborscan.New(data)
	r = new(Receipt)
	c.Map(4)
	c.Key(1)
	c.Fixed(r.Epoch[:])
	c.Key(2)
	r.Index = c.Uint()
	c.Key(3)
	r.Path = make([]Hash, c.Array(maxPath))
	for i := range r.Path {
		c.Fixed(r.Path[i][:])
	}
	c.Key(4)
	r.SignedHead = c.Bytes()
	if !c.OK() {
		return nil, nil, fmt.Errorf("receipt: %w", strictcbor.ErrEncoding)
	}
	return r, c.Rest(), nil
}

// Verify checks the head's signature and that the entry, as encoded, lies under it. It returns the head.
func (r *Receipt) Verify(entry []byte, key *Key) (*Head, error) {
	head, err := VerifyHead(r.SignedHead, key)
	if err != nil {
		return nil, err
	}
	return head, r.VerifyUnder(entry, head)
}

// VerifyUnder checks that the entry lies under a head whose signature was checked before.
func (r *Receipt) VerifyUnder(entry []byte, head *Head) error {
	if r.Epoch != head.Epoch {
		return fmt.Errorf("%w: receipt of epoch %s, head of epoch %s", ErrInclusion, r.Epoch, head.Epoch)
	}
	root, ok := rootFromPath(LeafHash(entry), r.Index, head.Size, r.Path)
	if !ok || root != head.Root {
		return fmt.Errorf("entry %d of epoch %s: %w", r.Index, r.Epoch, ErrInclusion)
	}
	return nil
}
