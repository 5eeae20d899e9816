// Package nsm is a Nitro Secure Module for the laboratory: it answers the requests that the driver of an enclave's kernel sends
// (drivers/misc/nsm.c of Linux; the messages of aws-nitro-enclaves-nsm-api), with registers of its own and attestation documents under a
// root of its own. Package lab/vhostuser puts it into a virtual machine as /dev/nsm; tests also call it in their own process.
//
// It protects nothing: whoever runs it can make any document. Nothing trusts its root unless told to.
package nsm

import (
	"crypto/rand"
	"crypto/sha512"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
)

// Bounds of the real module.
const (
	MaxRequest  = 4 << 10  // bytes (NSM_REQUEST_MAX_SIZE)
	MaxResponse = 12 << 10 // bytes (NSM_RESPONSE_MAX_SIZE)

	registers      = 32
	ownRegisters   = 16  // the first registers are the hypervisor's: locked from the start
	maxExtend      = 512 // bytes of data of one ExtendPCR
	randomSize     = 256 // bytes of one GetRandom
	instanceIndex  = 4
	moduleIdentity = nitrotest.ModuleID
)

// Options of a module.
type Options struct {
	// Image is what boots; PCR0, 1, 2 and 8 come from it. PCR4 is that of the instance in the documents.
	Image eif.Measurements
	// Now is the module's clock; nil: this machine's.
	Now func() time.Time
	// Before is a module whose root vouches for this one too, as for an enclave that is started anew; nil: a root of its own.
	Before *Module
}

// Module is one module, of one enclave: a machine that is started anew gets another one. It is safe for concurrent use.
type Module struct {
	now func() time.Time

	mu     sync.Mutex
	pcrs   [registers]nitro.PCR
	locked [registers]bool
	pki    *nitrotest.PKI
	leaf   *nitrotest.Certificate
}

// New makes a module.
func New(o Options) (m *Module, err error) {
	m = &Module{now: o.Now}
	if m.now == nil {
		m.now = time.Now
	}
	m.pcrs[0], m.pcrs[1], m.pcrs[2] = o.Image.PCR0, o.Image.PCR1, o.Image.PCR2
	if o.Image.PCR8 != nil {
		m.pcrs[8] = *o.Image.PCR8
	}
	m.pcrs[instanceIndex] = nitro.PCR(nitrotest.PCR(nitrotest.InstanceID))
	for i := range ownRegisters {
		m.locked[i] = true
	}
	err = caught(func() {
		if o.Before == nil {
			m.pki = nitrotest.New(thrower{}, m.now())
		} else {
			m.pki = o.Before.authority().Renew(thrower{}, m.now())
		}
	})
	return m, err
}

func (m *Module) authority() *nitrotest.PKI {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pki
}

// RootPEM is the certificate that a verifier of the module's documents has to trust.
func (m *Module) RootPEM() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pki.RootPEM()
}

// PCR is the present value of a register and whether it is locked.
func (m *Module) PCR(index int) (value nitro.PCR, locked bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pcrs[index], m.locked[index]
}

// Codes of errors (nsm_io::ErrorCode).
type code string

const (
	invalidArgument  code = "InvalidArgument"
	invalidIndex     code = "InvalidIndex"
	readOnlyIndex    code = "ReadOnlyIndex"
	invalidOperation code = "InvalidOperation"
	inputTooLarge    code = "InputTooLarge"
	internalError    code = "InternalError"
)

// arguments of all requests; each uses its own.
type arguments struct {
	Index     *uint16 `cbor:"index"`
	Range     *uint16 `cbor:"range"`
	Data      []byte  `cbor:"data"`
	UserData  []byte  `cbor:"user_data"`
	Nonce     []byte  `cbor:"nonce"`
	PublicKey []byte  `cbor:"public_key"`
}

var strict = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxNestedLevels: 4,
	}.DecMode()
	if err != nil {
		panic(err) // constant options
	}
	return mode
}()

// Answer answers one request. What it cannot answer is an answer too: the guest's driver waits for one.
func (m *Module) Answer(request []byte) []byte {
	name, a, failed := open(request)
	var reply any
	if failed == "" {
		m.mu.Lock()
		reply, failed = m.do(name, a)
		m.mu.Unlock()
	}
	if failed != "" {
		reply = map[string]code{"Error": failed}
	} else if reply == nil {
		reply = name // requests without a result are answered with their name
	} else {
		reply = map[string]any{name: reply}
	}
	encoded, err := cbor.Marshal(reply)
	if err != nil {
		panic(err) // maps of texts, numbers and bytes always encode
	}
	return encoded
}

// open reads a request: its name alone, or a map from its name to its arguments.
func open(request []byte) (string, arguments, code) {
	var (
		name  string
		whole map[string]arguments
	)
	if len(request) > MaxRequest {
		return "", arguments{}, inputTooLarge
	}
	if strict.Unmarshal(request, &name) == nil {
		return name, arguments{}, ""
	}
	if err := strict.Unmarshal(request, &whole); err != nil || len(whole) != 1 {
		return "", arguments{}, invalidOperation
	}
	for name, a := range whole {
		return name, a, ""
	}
	panic("unreachable")
}

type (
	description struct {
		Major    uint16   `cbor:"version_major"`
		Minor    uint16   `cbor:"version_minor"`
		Patch    uint16   `cbor:"version_patch"`
		ModuleID string   `cbor:"module_id"`
		MaxPCRs  uint16   `cbor:"max_pcrs"`
		Locked   []uint16 `cbor:"locked_pcrs"`
		Digest   string   `cbor:"digest"`
	}
	register struct {
		Lock bool   `cbor:"lock"`
		Data []byte `cbor:"data"`
	}
	extended struct {
		Data []byte `cbor:"data"`
	}
	attestation struct {
		Document []byte `cbor:"document"`
	}
	randomness struct {
		Random []byte `cbor:"random"`
	}
)

// do answers a request that could be read. Without result and error it has none.
func (m *Module) do(name string, a arguments) (any, code) {
	switch name {
	case "DescribeNSM":
		return m.describe(), ""
	case "GetRandom":
		bytes := make([]byte, randomSize)
		rand.Read(bytes) // never fails
		return randomness{bytes}, ""
	case "Attestation":
		document, failed := m.attest(a)
		return attestation{document}, failed
	case "LockPCRs":
		if a.Range == nil {
			return nil, invalidArgument
		}
		if *a.Range > registers {
			return nil, invalidIndex
		}
		for i := range *a.Range {
			m.locked[i] = true
		}
		return nil, ""
	case "DescribePCR", "ExtendPCR", "LockPCR":
		if a.Index == nil {
			return nil, invalidArgument
		}
		if *a.Index >= registers {
			return nil, invalidIndex
		}
		return m.onRegister(name, int(*a.Index), a.Data)
	}
	return nil, invalidOperation
}

func (m *Module) onRegister(name string, index int, data []byte) (any, code) {
	switch {
	case name == "DescribePCR":
		return register{m.locked[index], slices.Clone(m.pcrs[index][:])}, ""
	case m.locked[index]:
		return nil, readOnlyIndex
	case name == "LockPCR":
		m.locked[index] = true
		return nil, ""
	case len(data) > maxExtend:
		return nil, inputTooLarge
	}
	m.pcrs[index] = sha512.Sum384(append(slices.Clone(m.pcrs[index][:]), data...))
	return extended{slices.Clone(m.pcrs[index][:])}, ""
}

func (m *Module) describe() description {
	d := description{Major: 1, ModuleID: moduleIdentity, MaxPCRs: registers, Locked: []uint16{}, Digest: "SHA384"}
	for i, locked := range m.locked {
		if locked {
			d.Locked = append(d.Locked, uint16(i))
		}
	}
	return d
}

// attest signs a document with the locked registers, at this time.
func (m *Module) attest(a arguments) (document []byte, failed code) {
	for _, field := range [][]byte{a.UserData, a.Nonce, a.PublicKey} {
		if len(field) > nitro.MaxFieldSize {
			return nil, inputTooLarge
		}
	}
	pcrs := make(map[int][]byte)
	for i, value := range m.pcrs {
		if m.locked[i] {
			pcrs[i] = slices.Clone(value[:])
		}
	}
	now := m.now()
	err := caught(func() {
		m.certify(now)
		draft := m.pki.Draft(m.leaf)
		draft.Set("timestamp", uint64(now.UnixMilli()))
		draft.Set("pcrs", pcrs)
		draft.Set("public_key", a.PublicKey)
		draft.Set("user_data", a.UserData)
		draft.Set("nonce", a.Nonce)
		document = draft.Seal(thrower{})
	})
	if err != nil {
		return nil, internalError
	}
	return document, ""
}

// certify issues new certificates before the present ones end: a document has to be verifiable for a while after it was made.
func (m *Module) certify(now time.Time) {
	const spare = time.Hour
	inside := func(c *nitrotest.Certificate) bool {
		return now.After(c.NotBefore) && now.Add(spare).Before(c.NotAfter)
	}
	if m.leaf != nil && inside(m.leaf) {
		return
	}
	if issuer := m.pki.Chain[len(m.pki.Chain)-1]; !inside(issuer) || issuer.NotAfter.Sub(now) < 2*spare {
		m.pki = m.pki.Renew(thrower{}, now)
	}
	m.pki.At = now.UTC().Truncate(time.Second) // the leaf's validity lies around it
	m.leaf = m.pki.Leaf(thrower{})
}

// thrower lets a process that is no test make documents.
type thrower struct{}

type thrown struct{ error }

func (thrower) Helper()           {}
func (thrower) Fatal(args ...any) { panic(thrown{fmt.Errorf("%s", fmt.Sprint(args...))}) }

func caught(run func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case thrown:
			err = r.error
		default:
			panic(r)
		}
	}()
	run()
	return nil
}
