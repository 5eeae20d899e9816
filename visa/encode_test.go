package visa

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
)

// The hand-written encoding of claims and receipts is that of the general encoder, with and without every optional part and
// at the edges of every length.
func TestEncodingByHand(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cnf, err := ConfirmationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	hash := bytes.Repeat([]byte{0xab}, 32)
	for _, size := range []int{1, 23, 24, 100, 255, 256} {
		for options := range 32 {
			text := strings.Repeat("x", size)
			c := &Claims{
				Issuer: "spiffe://d", Subject: "spiffe://d/ns/n/agent/a", ExpiresAt: maxTime, NotBefore: int64(size), IssuedAt: int64(size) << 20,
				ID: hash[:16], Confirmation: Confirmation{Key: cnf}, PolicyHash: hash, PermitHash: hash, ConfigurationHash: hash,
				Ceiling: Ceiling{Version: uint64(1) << (size % 64), Hash: hash}, Tier: "software", Epoch: hash[:16], Namespace: text,
				Asserted: Asserted{AgentID: text, UID: uint32(size) << 24, User: text, PID: int32(size - 128), Backend: text, Host: text},
			}
			if options&1 != 0 {
				c.Audience = text
			}
			if options&2 != 0 {
				c.Nonce = make([]byte, MinNonceSize+size%(MaxNonceSize-MinNonceSize))
			}
			if options&4 != 0 {
				c.Asserted.BinarySHA256 = hash
			}
			if options&8 != 0 {
				c.Asserted.Cgroup = text
			}
			if options&16 != 0 {
				c.Handle = hash
				c.Budget = 2_500_000
			}
			if err := c.check(); err != nil {
				t.Fatal(err)
			}
			want, err := encoding.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.encode(); !bytes.Equal(got, want) {
				t.Fatalf("texts of %d bytes, options %05b:\n%x, want\n%x", size, options, got, want)
			}
		}
	}
	for _, steps := range []int{0, 1, 23, 24, 62} {
		r := journal.Receipt{Epoch: journal.EpochID{1}, Index: 1 << steps, Path: make([]journal.Hash, steps), SignedHead: make([]byte, 10*steps)}
		if r.SignedHead == nil {
			r.SignedHead = []byte{}
		}
		want, err := encoding.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Encode(); !bytes.Equal(got, want) {
			t.Fatalf("path of %d: %x, want %x", steps, got, want)
		}
	}
}
