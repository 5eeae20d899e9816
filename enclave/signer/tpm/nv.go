package tpm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// CounterFile is the name of the file in the state folder that says where the counter of leases lies, mode 0600.
const CounterFile = "tpm.counter"

const maxCounterFile = 512 // bytes

// The NV indices of counters: pairs of the counter and of the highest version of a grant, in the range for owners (Registry of
// Reserved TPM 2.0 Handles, 2.2.2). The first pair that is free is taken, so that several enclaves can share one TPM.
const (
	firstCounter = 0x01800b10
	counterPairs = 8
	nvSize       = 8 // bytes of either
)

// counterAt is what the file holds. The password is random: whoever removes an index and makes one like it has another password,
// and the TPM says so.
type counterAt struct {
	Format   uint64   `cbor:"1,keyasint"`
	Index    uint32   `cbor:"2,keyasint"` // of the counter; the version's is the next
	Password [32]byte `cbor:"3,keyasint"` // of both indices
	Primary  []byte   `cbor:"4,keyasint"` // name of the owner's storage primary key, which ends when the TPM is cleared
}

// Counter is the anchor of leases in a TPM: a counter in its NV memory, which can only go up. One that is made anew, after it was
// removed or the TPM cleared, starts above every counter that this TPM ever had (Part 1, 37.2.4.2), and has another ID.
//
// Each call makes the storage primary key and salts a session to it, which takes a chip some tenths of a second: leases are few.
type Counter struct {
	key *Key
	at  counterAt
	id  [32]byte
}

var _ lease.Anchor = (*Counter)(nil)

// nvArea is the public area of an index after its first write.
func nvArea(index uint32, kind tpm2.TPMNT) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: nvSize,
		Attributes: tpm2.TPMANV{
			NT: kind, AuthWrite: true, AuthRead: true, Written: true,
			OwnerRead: true, // so that tpm2_nvread -C o shows it
			NoDA:      true, // or wrong passwords for other things would stop leases
		},
	}
}

// named is an index of the counter, by the name that it must have.
func (c *counterAt) named(kind tpm2.TPMNT) tpm2.NamedHandle {
	index := c.Index
	if kind == tpm2.TPMNTOrdinary {
		index++
	}
	area := nvArea(index, kind)
	name, err := tpm2.NVName(&area)
	if err != nil {
		panic(err) // SHA-256 is known
	}
	return tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: *name}
}

// identity names the counter: which TPM, which index, and by the password which of all that were ever made there.
func (c *counterAt) identity() [32]byte {
	h := sha256.New()
	h.Write([]byte("raypher TPM lease counter 1\x00"))
	password := sha256.Sum256(c.Password[:])
	for _, part := range [][]byte{c.Primary, c.named(tpm2.TPMNTCounter).Name.Buffer, c.named(tpm2.TPMNTOrdinary).Name.Buffer, password[:]} {
		h.Write(part)
	}
	return [32]byte(h.Sum(nil))
}

// errReplaced: the counter that the file describes is not there any more.
var errReplaced = errors.New("the counter of leases is gone")

// Counter finds the counter of leases, or makes it; made says which. One that was removed, whose place another index took, or
// that was of another TPM, is made anew: grants name the old one and give nothing.
func (k *Key) Counter(ctx context.Context) (c *Counter, made bool, err error) {
	c = &Counter{key: k}
	err = k.owner.do(ctx, func(tpm transport.TPM) error {
		found, err := c.find(tpm)
		if err != nil || found {
			return err
		}
		made = true
		return c.make(tpm)
	})
	if err != nil {
		return nil, false, fmt.Errorf("%w in the TPM: %w", lease.ErrAnchor, deviceError(err))
	}
	c.id = c.at.identity()
	return c, made, nil
}

func (c *Counter) find(tpm transport.TPM) (bool, error) {
	path := filepath.Join(c.key.state, CounterFile)
	text, err := statefile.Read(path, maxCounterFile)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = strictcbor.Decode(text, maxCounterFile, &c.at)
	}
	if err == nil && c.at.Format != 1 {
		err = fmt.Errorf("format %d", c.at.Format)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w: restore it, or remove it and sign a new grant", path, err)
	}
	err = c.with(tpm, func(s tpm2.Session) error {
		_, err := c.readBoth(tpm, s)
		return err
	})
	if errors.Is(err, errReplaced) {
		return false, nil
	}
	return err == nil, err
}

// make makes both indices. The file comes first: without it nobody knows the password.
func (c *Counter) make(tpm transport.TPM) error {
	p, err := makePrimary(tpm, tpm2.TPMRHOwner)
	if err != nil {
		return err
	}
	defer flush(tpm, p.handle)
	index, err := freeCounter(tpm)
	if err != nil {
		return err
	}
	c.at = counterAt{Format: 1, Index: index, Primary: p.name.Buffer}
	c.at.Password = newPassword()
	if err := statefile.Write(c.key.state, CounterFile, strictcbor.Encode(c.at)); err != nil {
		return err
	}
	for _, kind := range []tpm2.TPMNT{tpm2.TPMNTCounter, tpm2.TPMNTOrdinary} {
		area := nvArea(uint32(c.at.named(kind).Handle), kind)
		area.Attributes.Written = false
		if _, err := execute(tpm, tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize,
				tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(128, tpm2.EncryptIn))},
			Auth:       tpm2.TPM2BAuth{Buffer: c.at.Password[:]},
			PublicInfo: tpm2.New2B(area),
		}); err != nil {
			return fmt.Errorf("make it: %w", err)
		}
		if err := c.begin(tpm, p, area); err != nil {
			return fmt.Errorf("make it: %w", err)
		}
	}
	return nil
}

// newPassword has no byte 0: TPMs take zeros off the end (Part 1, 19.6.4.3), and go-tpm v0.9.8 cuts at the first one, wherever it
// is (sessions.go, hmacKeyFromAuthValue).
func newPassword() (p [32]byte) {
	for {
		rand.Read(p[:]) // never fails (crypto/rand)
		if bytes.IndexByte(p[:], 0) < 0 {
			return p
		}
	}
}

// begin writes an index for the first time, after which it has its final name.
func (c *Counter) begin(tpm transport.TPM, p *primary, area tpm2.TPMSNVPublic) error {
	name, err := tpm2.NVName(&area)
	if err != nil {
		return err
	}
	s, end, err := c.session(tpm, p)
	if err != nil {
		return err
	}
	defer end()
	auth := tpm2.AuthHandle{Handle: area.NVIndex, Name: *name, Auth: s}
	index := tpm2.NamedHandle{Handle: area.NVIndex, Name: *name}
	if area.Attributes.NT == tpm2.TPMNTCounter {
		_, err = execute(tpm, tpm2.NVIncrement{AuthHandle: auth, NVIndex: index})
		return err
	}
	_, err = execute(tpm, tpm2.NVWrite{AuthHandle: auth, NVIndex: index, Data: tpm2.TPM2BMaxNVBuffer{Buffer: make([]byte, nvSize)}})
	return err
}

// freeCounter finds the first pair of indices that nobody uses.
func freeCounter(tpm transport.TPM) (uint32, error) {
	for i := range uint32(counterPairs) {
		index := uint32(firstCounter + 2*i)
		free := true
		for _, h := range []uint32{index, index + 1} {
			_, err := execute(tpm, tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(h)})
			if err != nil && !errors.Is(err, tpm2.TPMRCHandle) {
				return 0, err
			}
			free = free && err != nil
		}
		if free {
			return index, nil
		}
	}
	return 0, fmt.Errorf("all %d places from %#x on are taken: remove those of enclaves that are no more with tpm2_nvundefine -C o INDEX", counterPairs, firstCounter)
}

// session is salted to the primary key and knows the password: what the TPM answers in it, the TPM answered.
func (c *Counter) session(tpm transport.TPM, p *primary) (tpm2.Session, func() error, error) {
	s, end, err := tpm2.HMACSession(tpm, tpm2.TPMAlgSHA256, nonceSize, tpm2.Salted(p.handle, p.public), tpm2.Auth(c.at.Password[:]))
	if err != nil {
		return nil, nil, fmt.Errorf("start session: %w", err)
	}
	return s, end, nil
}

// with runs use in a session, when this is the TPM and these are the indices. Errors of another one are errReplaced.
func (c *Counter) with(tpm transport.TPM, use func(tpm2.Session) error) error {
	p, err := makePrimary(tpm, tpm2.TPMRHOwner)
	if err != nil {
		return err
	}
	defer flush(tpm, p.handle)
	if !bytes.Equal(p.name.Buffer, c.at.Primary) {
		return fmt.Errorf("%w: it is of another TPM, or this one was cleared: start again and sign a new grant", errReplaced)
	}
	for _, kind := range []tpm2.TPMNT{tpm2.TPMNTCounter, tpm2.TPMNTOrdinary} {
		index := c.at.named(kind)
		public, err := execute(tpm, tpm2.NVReadPublic{NVIndex: index.Handle})
		if errors.Is(err, tpm2.TPMRCHandle) {
			return fmt.Errorf("%w: index %#x was removed: start again and sign a new grant", errReplaced, uint32(index.Handle))
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(public.NVName.Buffer, index.Name.Buffer) {
			return fmt.Errorf("%w: another index took the place of %#x: start again and sign a new grant", errReplaced, uint32(index.Handle))
		}
	}
	s, end, err := c.session(tpm, p)
	if err != nil {
		return err
	}
	defer end()
	err = use(s)
	if errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth) {
		return fmt.Errorf("%w: an index like it with another password is at %#x: start again and sign a new grant", errReplaced, c.at.Index)
	}
	return err
}

func (c *Counter) read(tpm transport.TPM, s tpm2.Session, kind tpm2.TPMNT) (uint64, error) {
	index := c.at.named(kind)
	response, err := execute(tpm, tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: s}, NVIndex: index, Size: nvSize,
	})
	if err != nil {
		return 0, err
	}
	if len(response.Data.Buffer) != nvSize {
		return 0, fmt.Errorf("index %#x holds %d bytes", uint32(index.Handle), len(response.Data.Buffer))
	}
	return binary.BigEndian.Uint64(response.Data.Buffer), nil
}

func (c *Counter) readBoth(tpm transport.TPM, s tpm2.Session) (r lease.Reading, err error) {
	if r.Counter, err = c.read(tpm, s, tpm2.TPMNTCounter); err != nil {
		return r, err
	}
	r.Version, err = c.read(tpm, s, tpm2.TPMNTOrdinary)
	return r, err
}

// ID implements lease.Anchor.
func (c *Counter) ID() [32]byte { return c.id }

// Tier implements lease.Anchor.
func (c *Counter) Tier() string { return journal.TierTPM }

// Index is the NV index of the counter.
func (c *Counter) Index() uint32 { return c.at.Index }

// Read implements lease.Anchor.
func (c *Counter) Read(ctx context.Context) (r lease.Reading, err error) {
	err = c.do(ctx, func(tpm transport.TPM, s tpm2.Session) (err error) {
		r, err = c.readBoth(tpm, s)
		return err
	})
	return r, err
}

// Take implements lease.Anchor. Increment and read are two commands, so another process may count in between: the counter is read
// before and after, and only a difference of exactly one is this call's step: of two that count at once, at most one sees it.
func (c *Counter) Take(ctx context.Context) (counter uint64, err error) {
	err = c.slowly(ctx, func(tpm transport.TPM, s tpm2.Session) error {
		before, err := c.read(tpm, s, tpm2.TPMNTCounter)
		if err != nil {
			return err
		}
		index := c.at.named(tpm2.TPMNTCounter)
		if _, err := execute(tpm, tpm2.NVIncrement{
			AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: s}, NVIndex: index,
		}); err != nil {
			return err
		}
		if counter, err = c.read(tpm, s, tpm2.TPMNTCounter); err != nil {
			return err
		}
		if counter != before+1 {
			return fmt.Errorf("%w: it went from %d to %d", lease.ErrContended, before, counter)
		}
		return nil
	})
	return counter, err
}

// Raise implements lease.Anchor.
func (c *Counter) Raise(ctx context.Context, version uint64) error {
	return c.slowly(ctx, func(tpm transport.TPM, s tpm2.Session) error {
		kept, err := c.read(tpm, s, tpm2.TPMNTOrdinary)
		if err != nil || version <= kept {
			return err
		}
		index := c.at.named(tpm2.TPMNTOrdinary)
		_, err = execute(tpm, tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: s}, NVIndex: index,
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: binary.BigEndian.AppendUint64(nil, version)},
		})
		return err
	})
}

func (c *Counter) do(ctx context.Context, use func(transport.TPM, tpm2.Session) error) error {
	err := c.key.owner.do(ctx, func(tpm transport.TPM) error {
		return c.with(tpm, func(s tpm2.Session) error { return use(tpm, s) })
	})
	if err != nil {
		return fmt.Errorf("%w in the TPM: %w", lease.ErrAnchor, deviceError(err))
	}
	return nil
}

// nvRateWait is how long a TPM that protects its memory is left alone before it is asked again. It did nothing meanwhile.
var nvRateWait = 2 * time.Second

// slowly does what writes, again and again while the TPM says that it writes too often, as long as ctx lasts. In between others
// can sign.
func (c *Counter) slowly(ctx context.Context, use func(transport.TPM, tpm2.Session) error) error {
	var last error
	for {
		err := c.do(ctx, use)
		if last != nil && err != nil && ctx.Err() != nil {
			return last
		}
		if !errors.Is(err, tpm2.TPMRCNVRate) {
			return err
		}
		last = err
		select {
		case <-time.After(nvRateWait):
		case <-ctx.Done():
			return err
		}
	}
}
